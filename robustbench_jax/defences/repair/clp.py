"""clp(u): channels whose Lipschitz constant stands out in their layer are removed; no data is needed.

Reference: Zheng et al., ECCV 2022, arXiv:2208.03111.
Departs from the paper: the bound of a channel is the spectral norm of its kernel as a matrix of inputs by window,
without the factor of batch norm, so that networks with batch norm are refused; dense hidden layers are looked at too.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.repair.repair import Repair, kernels
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive


@register("model_defence", "clp", paper="zheng2022", repairs=True)
@record
class CLP(Repair):
    """u: by how many standard deviations over its layer's mean a channel stands out."""

    u: float = 3.0

    def __post_init__(self):
        require_positive("clp", u=self.u)

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        params = dict(classifier.params)
        if any(name.endswith(("/var", "/scale")) for name in params):
            raise UserError("clp: networks with normalisation layers are not supported; choose e.g. anp()")
        for name in kernels(params):
            keep = ~outstanding(channel_norms(params[name]), self.u)
            bias = name.removesuffix("kernel") + "bias"
            params |= {each: params[each] * keep for each in (name, bias) if each in params}
        return classifier.replace(params=params)


def channel_norms(kernel: jax.Array) -> jax.Array:
    """The largest singular value of each channel's weights: kernel [h, w, I, U] or [I, U] -> [U]."""
    ins, outs = kernel.shape[-2:]
    matrices = jnp.moveaxis(kernel.reshape(-1, ins, outs), -1, 0)
    return jnp.linalg.norm(matrices, ord=2, axis=(1, 2))


def outstanding(norms: jax.Array, u: float) -> np.ndarray:
    """bool [U]: which are over mean + u standard deviations."""
    norms = np.asarray(norms)
    return norms > norms.mean() + u * norms.std()
