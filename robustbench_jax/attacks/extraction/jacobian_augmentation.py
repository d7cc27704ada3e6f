"""jacobian_augmentation(): from a few images, new ones are made along the clone's gradients and asked about.

Reference: Papernot et al., AsiaCCS 2017, arXiv:1602.02697 (JBDA): each round doubles the images by
x + step * sign of the gradient of the clone's logit of the class that the victim gave.
Departs from the paper: where the budget does not hold a whole round, a random part of it is asked about, which is
what its reservoir sampling is for; questions are rounded to 8 bits.
Shapes: n images, C classes, D = [H, W, C].
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.extraction.cloning import Cloning, answered, drawn
from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import Runtime, by_slices
from robustbench_jax.registry import register
from robustbench_jax.thefts import Oracle
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static


@register(
    "attack",
    "jacobian_augmentation",
    threat="extraction",
    access="labels",
    paper="papernot2017",
    parts={"recipe": "recipe"},
)
@record
class JacobianAugmentation(Cloning):
    """seeds: natural images to begin with; step: of one augmentation, pixels from 0 to 1."""

    labels: bool = True
    seeds: int = static(default=150)
    step: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        require_positive("jacobian_augmentation", seeds=self.seeds, step=self.step)

    def collect(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> tuple[np.ndarray, np.ndarray]:
        x = pool.x[drawn(stream(key, "seeds"), min(self.seeds, oracle.left, len(pool)), len(pool))]
        answers, number = oracle.ask(x), 0
        while oracle.left and len(answered(x, answers)[0]):
            own = jax.random.fold_in(key, number)
            known, said = answered(x, answers)
            new = augmented(self.clone(stream(own, "clone"), x, answers, pool), known, said.argmax(-1), self.step)
            new = new[drawn(stream(own, "kept"), min(len(new), oracle.left), len(new))]
            x, answers = np.concatenate([x, new]), np.concatenate([answers, oracle.ask(new)])
            number += 1
        return x, answers


def augmented(
    model: Classifier, x: np.ndarray, labels: np.ndarray, step: float, runtime: Runtime = Runtime()
) -> np.ndarray:
    """uint8 [n, D]: each image of x uint8 [n, D] a step along the sign of the gradient of the logit of its label."""
    return by_slices(lambda *part: _augmented(model, *part, step), [x, labels], runtime.fit(len(x)))


@jax.jit
def _augmented(model: Classifier, x: jax.Array, labels: jax.Array, step: jax.Array) -> jax.Array:
    x = as_unit(x)
    slopes = jax.vmap(jax.grad(lambda image, label: model(image)[label]))(x, labels)
    return jnp.round(jnp.clip(x + step * jnp.sign(slopes), 0.0, 1.0) * 255).astype(jnp.uint8)
