"""low_rank(share): each weight matrix is replaced by the nearest one of lower rank.

Reference: Denton et al., NeurIPS 2014, arXiv:1404.0736, by singular values; a convolution is the matrix of its windows
by its output channels.
Shapes: a kernel [..., I, U] is [prod(...) I, U].
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.compression.pruned import weights
from robustbench_jax.defences.repair.repair import Repair
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, static


@register("model_defence", "low_rank", paper="denton2014", compresses=True)
@record
class LowRank(Repair):
    """share: of each matrix's rank that stays, above 0 and at most 1; one dimension stays in any case."""

    share: float = static(default=0.5)

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise UserError(f"low_rank: share = {self.share} must be above 0 and at most 1")

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        near = {name: nearest(np.asarray(classifier.params[name]), self.share) for name in weights(classifier)}
        return classifier.replace(params=classifier.params | {name: jnp.asarray(it) for name, it in near.items()})


def nearest(kernel: np.ndarray, share: float) -> np.ndarray:
    """The kernel as a matrix [., U], with the largest `share` of its singular values alone (Eckart and Young)."""
    left, values, right = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]).astype(np.float64), full_matrices=False)
    kept = max(1, int(share * len(values) + 0.5))
    return ((left[:, :kept] * values[:kept]) @ right[:kept]).reshape(kernel.shape).astype(np.float32)
