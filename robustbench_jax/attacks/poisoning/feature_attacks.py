"""Poisons whose features close in on the target's: feature_collision, convex_polytope, bullseye_polytope.

References: feature collision: Shafahi et al., NeurIPS 2018, arXiv:1804.00792. Convex polytope: Zhu et al., ICML 2019,
arXiv:1905.05897. Bullseye polytope: Aghakhani et al., EuroS&P 2021, arXiv:2005.00191: the mean of the poisons'
features. All made for victims that train a new head on frozen features (`head_only`). With several references their
losses, each relative to the target's features, are averaged.
Departs from the paper: all minimise by signed Adam steps in the box of eps; the convex polytope's coefficients are
optimised along with the images, by a softmax, and not by an inner solver.
Shapes: P poisons, D = [H, W, C], F features.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.attacks.poisoning.targeted import Targeted, within
from robustbench_jax.models.features import features
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static


class FeatureAttack(Targeted):
    """eps: of each poison; steps of `learning_rate`; references: models whose features are looked at."""

    eps: float
    steps: int
    learning_rate: float
    references: int
    how = ""

    def __post_init__(self):
        require_positive(self.registered[1], eps=self.eps, steps=self.steps, references=self.references)

    def crafted(
        self,
        key: jax.Array,
        bases: jax.Array,
        target: jax.Array,
        intended: int,
        references: tuple[Classifier, ...],
        data: Dataset,
    ) -> jax.Array:
        optimiser = optax.adam(self.learning_rate)
        state = {"x": jnp.asarray(bases), "mix": jnp.zeros(len(bases))}
        adam = optimiser.init(state)
        for _ in range(self.steps):
            state, adam = _step(references, state, adam, bases, target, self.eps, self.learning_rate, self.how)
        return state["x"]


@register("attack", "feature_collision", threat="poisoning", access="poison_only", paper="shafahi2018")
@record
class FeatureCollision(FeatureAttack):
    """Each poison's features come near to the target's by themselves."""

    eps: float = 16 / 255
    steps: int = static(default=200)
    learning_rate: float = 0.01
    references: int = static(default=1)
    how = "each"


@register("attack", "convex_polytope", threat="poisoning", access="poison_only", paper="zhu2019")
@record
class ConvexPolytope(FeatureAttack):
    """Some convex combination of the poisons' features comes near to the target's."""

    eps: float = 16 / 255
    steps: int = static(default=200)
    learning_rate: float = 0.01
    references: int = static(default=1)
    how = "convex"


@register("attack", "bullseye_polytope", threat="poisoning", access="poison_only", paper="aghakhani2021")
@record
class BullseyePolytope(FeatureAttack):
    """The mean of the poisons' features comes near to the target's."""

    eps: float = 16 / 255
    steps: int = static(default=200)
    learning_rate: float = 0.01
    references: int = static(default=1)
    how = "mean"


def distance(model: Classifier, x: jax.Array, mix: jax.Array, target: jax.Array, how: str) -> jax.Array:
    """Squared distance of the features from the target's, over the latter's squared norm."""
    seen, wanted = jax.vmap(partial(features, model))(x), jax.lax.stop_gradient(features(model, target))
    if how == "each":
        away = jnp.mean(jnp.sum((seen - wanted) ** 2, axis=-1))
    else:
        weights = jax.nn.softmax(mix) if how == "convex" else jnp.full(len(x), 1 / len(x))
        away = jnp.sum((weights @ seen - wanted) ** 2)
    return away / jnp.maximum(jnp.sum(wanted**2), 1e-12)


@partial(jax.jit, static_argnames="how")
def _step(references: Any, state, adam, bases, target, eps, rate, how: str):
    def loss(state):
        return sum(distance(model, state["x"], state["mix"], target, how) for model in references) / len(references)

    changes, adam = optax.adam(rate).update(jax.grad(loss)(state), adam)
    moved = optax.apply_updates(state, changes)
    return moved | {"x": within(moved["x"], bases, eps)}, adam
