"""ip_guard(points): a fingerprint of points beside the model's boundaries.

Reference: Cao et al., AsiaCCS 2021, arXiv:1910.12903: images are moved until the model is just about to take them for
another class; a copy agrees on these points more often than another model does. Nothing is embedded.
Departs from the paper: the class that a point is moved to is the likeliest other one; points are rounded to 8 bits, and
the label is the one that the model gives them then.
Shapes: K points, D = [H, W, C], C classes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.defences.training.marks.triggers import Triggers, matches
from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify
from robustbench_jax.ownership import MARK, Mark, Owner, Suspect
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static

RATE = 0.01  # of Adam, pixels from 0 to 1


@register("training", "ip_guard", paper="cao2021", access="labels", **MARK)
@record
class IPGuard(Mark):
    """points: of the fingerprint, from as many of the owner's images; margin: of logits, by which the other class wins;
    steps: at most.
    """

    points: int = 100
    margin: float = 1.0
    steps: int = static(default=300)
    secret: int = 0

    def __post_init__(self):
        require_positive("ip_guard", points=self.points, margin=self.margin, steps=self.steps)

    def claim(self, owner: Owner) -> Triggers:
        order = np.asarray(jax.random.permutation(stream(self.key, "rows"), len(owner.data)))
        return self.fingerprint(owner.model, owner.data.rows(order[: self.points]))

    def fingerprint(self, model: Classifier, data: Dataset) -> Triggers:
        """Points uint8 [K, D] beside the boundaries, and the classes that the model gives them."""
        moved = _moved(model, as_unit(jnp.asarray(data.x)), self.margin, self.steps)
        x = np.asarray(jnp.round(moved * 255)).astype(np.uint8)
        return x, classify(model, x)

    def evidence(self, claim: Triggers, suspect: Suspect) -> np.ndarray:
        return matches(claim, suspect)

    def forged(self, key: jax.Array, model: Classifier, images: Dataset) -> Triggers:
        """A fingerprint that the thief takes himself."""
        order = np.asarray(jax.random.permutation(key, len(images)))
        return self.fingerprint(model, images.rows(order[: self.points]))


@partial(jax.jit, static_argnames="steps")
def _moved(model: Classifier, x: jax.Array, margin: float, steps: int) -> jax.Array:
    """Each image [K, D] at its first point where another class leads its own by the margin and all the rest trail."""
    logits = jax.vmap(model)(x)
    own = jnp.argmax(logits, -1)
    other = jnp.argmax(jnp.where(jax.nn.one_hot(own, logits.shape[-1]) > 0, -jnp.inf, logits), -1)

    def loss(z, own, other):
        out = model(z)
        classes = jnp.arange(len(out))
        rest = jnp.max(jnp.where((classes == own) | (classes == other), -jnp.inf, out))
        return jax.nn.relu(out[own] - out[other] + margin) + jax.nn.relu(rest - out[own])

    adam = optax.adam(RATE)

    def step(_, carried):
        z, state = carried
        value, gradient = jax.vmap(jax.value_and_grad(loss))(z, own, other)
        change, state = adam.update(gradient, state)
        on = (value > 0)[:, None, None, None]
        return jnp.where(on, jnp.clip(z + change, 0, 1), z), state

    return jax.lax.fori_loop(0, steps, step, (x, adam.init(x)))[0]
