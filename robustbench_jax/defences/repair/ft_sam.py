"""ft_sam(rho): fine-tuning that looks for flat minima, which moves the weights of backdoor neurons more.

Reference: Zhu et al., ICCV 2023, arXiv:2304.11823: adaptive sharpness-aware minimisation, with the weights moved by
rho |w|^2 g / || |w| g || before the gradient is taken.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.defences.repair.repair import Repair, tuned
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, Dataset, record, require_positive


@record
class AdaptiveSAM(TrainingDefence):
    """rho: the length of the move, in units of the weights."""

    rho: float

    def combine(self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any) -> tuple:
        upwards, _ = jax.grad(objective, has_aux=True)(weights, batch)
        away = adaptive_ascent(weights, upwards, self.rho)
        return *jax.grad(objective, has_aux=True)(jax.tree.map(jnp.add, weights, away), batch), memory


def adaptive_ascent(weights: Any, upwards: Any, rho: jax.Array) -> Any:
    """The move of each weight; none where all gradients are 0."""
    length = optax.tree.norm(jax.tree.map(lambda w, g: jnp.abs(w) * g, weights, upwards))
    return jax.tree.map(lambda w, g: rho * w**2 * g / jnp.maximum(length, 1e-12), weights, upwards)


@register("model_defence", "ft_sam", paper="zhu2023", parts={"recipe": "recipe"}, repairs=True)
@record
class FTSAM(Repair):
    """rho: see AdaptiveSAM; recipe: as in fine_tuning."""

    rho: float = 2.0
    recipe: Any | None = "sgd(epochs=20, batch_size=64, learning_rate=0.01)"

    def __post_init__(self):
        require_positive("ft_sam", rho=self.rho)

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        return tuned(key, classifier, data, self.recipe, AdaptiveSAM(self.rho))
