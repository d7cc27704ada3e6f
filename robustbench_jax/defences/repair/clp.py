"""clp(u): units whose weights stretch their input far more than those of the others are cut off; no data are needed.

Reference: Zheng et al., ECCV 2022, arXiv:2208.03111 (channel Lipschitzness pruning): the spectral norm of a unit's
kernel, as a matrix of inputs by places; units above the mean + u standard deviations of their layer go.
Departs from the paper: layers without batch norm are judged by their kernels alone; with it, also by its scale.
Shapes: U units of a layer.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.repair.repair import Repair, layers, scaled
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive


@register("model_defence", "clp", paper="zheng2022", repairs=True)
@record
class CLP(Repair):
    """u: standard deviations."""

    u: float = 3.0

    def __post_init__(self):
        require_positive("clp", u=self.u)

    def repaired(self, key: jax.Array, model: Classifier, data: Dataset, held: Dataset) -> Classifier:
        for layer in layers(model):
            sizes = stretches(np.asarray(model.params[layer], np.float64))
            kept = sizes <= sizes.mean() + self.u * sizes.std()
            model = scaled(model, layer, jnp.asarray(kept, jnp.float32))
        return model


def stretches(kernel: np.ndarray) -> np.ndarray:
    """[U]: of a kernel [H, W, I, U] the spectral norms of matrices [I, H W], of one [I, U] the norms of its columns."""
    if kernel.ndim == 2:
        return np.linalg.norm(kernel, axis=0)
    units = np.moveaxis(kernel, -1, 0)
    return np.linalg.norm(units.reshape(len(units), -1, units.shape[-1]), 2, axis=(1, 2))
