"""batch_norm_adaptation(prior, together): batch norm with statistics of the images that are to be classified.

Reference: Schneider et al., NeurIPS 2020, arXiv:2006.16971; see models/adapting.py. What an image gets depends on those
that it is shown with, so this is a defence against corruptions, which meet all images alike; one attacked image is
classified with the statistics of training.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.defences.model.preprocessing import ModelDefence
from robustbench_jax.models.adapting import Adapting, children
from robustbench_jax.models.net import Net
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@register("model_defence", "batch_norm_adaptation", paper="schneider2020", alone=True)
@record
class BatchNormAdaptation(ModelDefence):
    """prior: N, how many images the statistics of training count as. together: n, images that are shown together."""

    prior: float = 16.0
    together: int = static(default=128)

    def __post_init__(self):
        require_positive("batch_norm_adaptation", together=self.together)
        if isinstance(self.prior, int | float) and self.prior < 0:
            raise UserError(f"batch_norm_adaptation: prior = {self.prior} must be at least 0")

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        norms = isinstance(classifier.net, Net) and [
            child
            for *_, child in children(classifier.net.module(classifier.params))
            if isinstance(child, nnx.BatchNorm)
        ]
        if not norms:
            raise UserError(
                "batch_norm_adaptation: the model has no batch norm of its own; resnet20, for one, has some"
            )
        return Classifier(Adapting(classifier.net, self.together), (classifier.params, jnp.float32(self.prior)))
