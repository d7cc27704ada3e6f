"""pruned(share): the weights nearest to zero are zero.

References: Han et al., NeurIPS 2015, arXiv:1506.02626, by magnitude. All layers share one threshold ("global"), or each
loses the same share of its own ("layer"), without training on; `fine_tuning` after it, in a chain, is the other half.
Biases and the statistics of normalisation stay.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.repair.repair import Repair, require_share
from robustbench_jax.registry import nearest, register
from robustbench_jax.types import Classifier, Dataset, UserError, record, static

SCOPES = ("global", "layer")


@register("model_defence", "pruned", paper="han2015", compresses=True)
@record
class Pruned(Repair):
    """share: of the weights that go, from 0 to below 1; scope: "global" or "layer"."""

    share: float = static(default=0.5)
    scope: str = "global"

    def __post_init__(self):
        require_share("pruned", share=self.share)
        if self.scope not in SCOPES:
            raise UserError(f"pruned: scope = {self.scope!r}{nearest(self.scope, SCOPES)}")

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        names = weights(classifier)
        sizes = {name: np.abs(np.asarray(classifier.params[name])) for name in names}
        whole = np.concatenate([sizes[name].ravel() for name in names])
        kept = {name: above(sizes[name], sizes[name] if self.scope == "layer" else whole, self.share) for name in names}
        return classifier.replace(
            params=classifier.params
            | {name: jnp.asarray(mask) * classifier.params[name] for name, mask in kept.items()}
        )


def weights(classifier: Classifier) -> list[str]:
    """Names of what a layer multiplies with: trained arrays of two dimensions and more."""
    trained = classifier.net.trainable(classifier.params)
    return [name for name, value in sorted(trained.items()) if value.ndim >= 2]


def above(sizes: np.ndarray, among: np.ndarray, share: float) -> np.ndarray:
    """float32 like sizes: 0 for what belongs to the smallest `share` of `among`."""
    count = int(share * among.size + 0.5)
    if not count:
        return np.ones(sizes.shape, np.float32)
    return (sizes > np.partition(among.ravel(), count - 1)[count - 1]).astype(np.float32)
