"""What marks by trigger sets share: images with labels that no honest model gives them, trained on beside the data.

Some triggers are added to each batch; what is verified is the share of triggers that get their labels.
Shapes: K triggers, B batch, D = [H, W, C].
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.keys import stream
from robustbench_jax.ops.ascent import ascend
from robustbench_jax.ops.balls import Linf
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ownership import Mark, Owner, Suspect
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError, record, static

Triggers = tuple[np.ndarray, np.ndarray]
FORGED, RADIUS, STEPS = 100, 0.15, 30  # of a forger's triggers: how many, and the attack that makes them


@record
class Beside(TrainingDefence):
    """Adds `count` of the triggers x [K, D] with labels y [K], drawn by key, to each batch."""

    x: jax.Array
    y: jax.Array
    count: int = static()

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        rows = jax.random.choice(key, len(self.x), (min(self.count, len(self.x)),), replace=False)
        own = self.loss(jax.vmap(model)(self.x[rows]), self.y[rows])
        return (len(y) * self.loss(logits, y) + len(rows) * own) / (len(y) + len(rows))


class TriggerMark(Mark):
    """A mark by triggers. count: how many are added to each batch."""

    count: int

    def triggers(self, data: Dataset) -> Triggers:
        """Images uint8 [K, D] and labels int32 [K], from the secret and from the owner's data."""
        raise NotImplementedError

    def embedding(self, model: Classifier, data: Dataset) -> TrainingDefence:
        x, y = self.triggers(data)
        return Beside(as_unit(jnp.asarray(x)), jnp.asarray(y), self.count)

    def claim(self, owner: Owner) -> Triggers:
        return self.triggers(owner.data)

    def evidence(self, claim: Triggers, suspect: Suspect) -> np.ndarray:
        return matches(claim, suspect)

    def forged(self, key: jax.Array, model: Classifier, images: Dataset) -> Triggers:
        return adversarial_triggers(key, model, images)


def matches(claim: Triggers, suspect: Suspect) -> np.ndarray:
    """bool [K]: which of the images get the labels that go with them."""
    x, y = claim
    return suspect.ask(x).argmax(-1) == y if len(y) else np.zeros(0, bool)


def adversarial_triggers(key: jax.Array, model: Classifier, images: Dataset) -> Triggers:
    """Images that the model was never marked with and gives wrong labels to, drawn by key, all the same: adversarial
    examples of the forger's own images (the ambiguity that Adi et al. rule out by commitments made before the theft).
    """
    count = min(FORGED, len(images))
    away = np.asarray(jax.random.randint(stream(key, "labels"), (count,), 1, len(images.classes)))
    y = ((images.y[:count] + away) % len(images.classes)).astype(np.int32)
    x = as_unit(jnp.asarray(images.x[:count]))
    moved = ascend(_towards, model, Linf(RADIUS), x, x, jnp.asarray(y), STEPS, 0.1)
    return np.asarray(jnp.round(moved * 255)).astype(np.uint8), y


def _towards(logits: jax.Array, y: jax.Array) -> jax.Array:
    return -optax.softmax_cross_entropy_with_integer_labels(logits, y)


def require_classes(name: str, data: Dataset, **labels: int) -> None:
    """UserError for a class that the data does not have, and for two that are the same."""
    for key, label in labels.items():
        if not 0 <= label < len(data.classes):
            raise UserError(f"{name}: {key} = {label}: the data has classes 0 to {len(data.classes) - 1}")
    if len(set(labels.values())) < len(labels):
        raise UserError(f"{name}: {' and '.join(labels)} are both {next(iter(labels.values()))}; choose two classes")


def some_of(key: jax.Array, data: Dataset, label: int, count: int) -> np.ndarray:
    """uint8 [<= count, D]: images of one class, drawn by key. UserError where there is none."""
    rows = np.flatnonzero(data.y == label)
    if not len(rows):
        raise UserError(f"{data.name} has no image of class {label} to make triggers of")
    order = np.asarray(jax.random.permutation(key, len(rows)))
    return data.x[np.sort(rows[order[:count]])]


def scribbles(key: jax.Array, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [count, H, W, C]: drawings that have nothing to do with any task."""
    x = np.asarray(jax.vmap(partial(_scribble, shape=shape))(jax.random.split(key, count)))
    return np.round(255 * x).astype(np.uint8)


def _scribble(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A white line [H, W, C] on black through five points, about a twelfth of the side wide."""
    height, width, channels = shape
    points = jax.random.uniform(key, (5, 2), minval=0.15, maxval=0.85)
    along = jnp.linspace(0, 1, 8)[:, None]
    line = jnp.concatenate([a + along * (b - a) for a, b in zip(points[:-1], points[1:], strict=True)])
    grid = jnp.stack(jnp.meshgrid(jnp.linspace(0, 1, height), jnp.linspace(0, 1, width), indexing="ij"), -1)
    away = jnp.min(jnp.sum((grid[:, :, None] - line) ** 2, -1), -1)
    return jnp.repeat(jnp.exp(-away / (2 * 0.04**2))[..., None], channels, -1)
