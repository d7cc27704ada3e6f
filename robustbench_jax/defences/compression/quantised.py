"""quantised(bits, activations): weights, and what layers are given, in few bits, after training.

References: Jacob et al., CVPR 2018, arXiv:1712.05877 (weights symmetric, activations with a zero point);
Krishnamoorthi, 2018, arXiv:1806.08342 (weights by output channel).
Ranges of layer inputs are those seen on trusted images.
A model that was trained with `quantisation_aware(bits)` knows that this will happen to it.
Shapes: L layers.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.compression.pruned import weights
from robustbench_jax.defences.repair.repair import Repair
from robustbench_jax.models.features import each, layer_inputs
from robustbench_jax.models.quantised import Quantised, rounded
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, static

SEEN = 512  # trusted images that tell the ranges


@register("model_defence", "quantised", paper="jacob2018", compresses=True)
@record
class Post(Repair):
    """bits: of weights, from 2 to 8; activations: bits of what layers are given, 0 to leave them as they are."""

    bits: int = static(default=8)
    activations: int = static(default=8)

    def __post_init__(self):
        require_bits("quantised", self.bits)
        if self.activations:
            require_bits("quantised", self.activations)

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        made = {name: rounded(classifier.params[name], self.bits) for name in weights(classifier)}
        params = classifier.params | made
        if not self.activations:
            return classifier.replace(params=params)
        ends = each(_ends, classifier, data.x[:SEEN])
        ranges = np.stack([ends[:, :, 0].min(0), ends[:, :, 1].max(0)], -1)
        return Classifier(Quantised(classifier.net, self.activations), (params, jnp.asarray(ranges), classifier.params))


def _ends(model: Classifier, x: jax.Array) -> jax.Array:
    """[L, 2]: the least and the largest value that each layer is given; 0 belongs to every range."""
    return jnp.stack([jnp.stack([jnp.minimum(it.min(), 0), jnp.maximum(it.max(), 0)]) for it in layer_inputs(model, x)])


def require_bits(owner: str, bits: int) -> None:
    if not 2 <= bits <= 8:
        raise UserError(f"{owner}: {bits} bits; there are 2 to 8")
