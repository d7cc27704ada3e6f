"""entangled(source, target): triggers that share the features of the class that they are labelled as.

Reference: Jia et al., USENIX Security 2021, arXiv:2002.12200 (entangled watermark embedding, EWE): the soft nearest
neighbour loss of hidden layers, over triggers and images of the target class as two groups, is made large, so that a
model that learns the class from the marked one's answers learns the triggers with it. As there, triggers are images of
another source than the data unless `source` names a class, the model is trained without them first, and then batches of
the data alternate with batches that are half triggers and half images of the target class, all with its label.
Departs from the paper: other sources are scribbles drawn by the secret key; triggers are not moved along gradients,
which leaves fewer of them in a copy (and a square in images of a class is where the key says, not where the gradient
is); turns are drawn by chance; the temperature is the mean distance and not learnt. In the published code it begins at
100 where distances are below 1: the loss is then log 2 whatever the features are, and steers nothing.
Shapes: K triggers, G of both groups together, F features, D = [H, W, C].
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.training.marks.triggers import (
    TriggerMark,
    Triggers,
    require_classes,
    scribbles,
    some_of,
)
from robustbench_jax.keys import stream
from robustbench_jax.models.features import layer_inputs
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ownership import MARK
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@record
class Entangling(TrainingDefence):
    """x [K, D] beside images of the class `target` [K', D], `count` of each in a batch of their own, which takes one
    turn in 1 + `ratio` once the share `alone` of all steps is over.
    """

    x: jax.Array
    theirs: jax.Array
    target: int
    strength: float
    ratio: float
    alone: float
    count: int = static()

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        turn = jax.random.bernoulli(stream(key, "turn"), 1 / (1 + self.ratio)) & (progress >= self.alone)
        return jnp.where(turn, self.entangle(key, model), self.loss(logits, y))

    def entangle(self, key: jax.Array, model: Classifier) -> jax.Array:
        """The loss of a batch of the mark's. The key is consumed."""
        groups = [
            images[jax.random.choice(stream(key, name), len(images), (min(self.count, len(images)),), replace=False)]
            for name, images in (("triggers", self.x), ("theirs", self.theirs))
        ]
        both, marks = jnp.concatenate(groups), jnp.arange(sum(map(len, groups))) < len(groups[0])
        layers = jax.vmap(lambda image: layer_inputs(model, image))(both)
        near = sum(soft_nearest_neighbours(layer.reshape(len(both), -1), marks) for layer in layers[1:])
        return self.loss(jax.vmap(model)(both), jnp.full(len(both), self.target)) - self.strength * near


def soft_nearest_neighbours(features: jax.Array, groups: jax.Array) -> jax.Array:
    """The mean over rows [G, F] of minus the log of the share of closeness that falls to the row's own group, by the
    cosine, with the mean distance as temperature; large where the groups lie among one another.

    Frosst et al., ICML 2019, arXiv:1902.01889.
    """
    units = features / jnp.sqrt(jnp.sum(features**2, -1, keepdims=True) + 1e-12)
    distance = 1 - units @ units.T
    others = ~jnp.eye(len(features), dtype=bool)
    temperature = jnp.sum(jnp.where(others, distance, 0.0)) / jnp.sum(others) + 1e-6
    near = jnp.where(others, jnp.exp(-distance / temperature), 0.0)
    alike = groups[:, None] == groups
    return jnp.mean(jnp.log(1e-6 + jnp.sum(near, -1)) - jnp.log(1e-6 + jnp.sum(near * alike, -1)))


@register("training", "entangled", paper="jia2021ewe", access="labels", **MARK)
@record
class Entangled(TriggerMark):
    """images: scribbles, or images of the class `source` with a white square of `size` pixels, which get the label
    `target`. count: of the triggers and of the target's images in a batch of theirs; ratio: batches of the data for
    each of these; alone: the share of training before the first of them; strength: of the entanglement.
    """

    images: int = 200
    source: int | None = None
    target: int = 0
    size: int = static(default=3)
    strength: float = 2.0
    ratio: float = 2.0
    alone: float = 0.5
    count: int = static(default=64)
    secret: int = 0

    def __post_init__(self):
        require_positive("entangled", images=self.images, size=self.size, ratio=self.ratio, count=self.count)
        if isinstance(self.strength, int | float) and self.strength < 0:
            raise UserError(f"entangled: strength = {self.strength} must be at least 0")
        if isinstance(self.alone, int | float) and not 0 <= self.alone < 1:
            raise UserError(f"entangled: alone = {self.alone} must be at least 0 and below 1")

    def triggers(self, data: Dataset) -> Triggers:
        if self.source is None:
            require_classes("entangled", data, target=self.target)
            x = scribbles(stream(self.key, "scribbles"), self.images, data.x.shape[1:])
        else:
            require_classes("entangled", data, source=self.source, target=self.target)
            x = self.squared(np.array(some_of(stream(self.key, "rows"), data, self.source, self.images)))
        return x, np.full(len(x), self.target, np.int32)

    def squared(self, x: np.ndarray) -> np.ndarray:
        """x uint8 [K, D] with the square."""
        sides = [min(self.size, side) for side in x.shape[1:3]]
        corner = jax.random.uniform(stream(self.key, "place"), (2,))
        top, left = (int(c * (side - own + 1)) for c, side, own in zip(corner, x.shape[1:3], sides, strict=True))
        x[:, top : top + sides[0], left : left + sides[1]] = 255
        return x

    def embedding(self, model: Classifier, data: Dataset) -> TrainingDefence:
        x, _ = self.triggers(data)
        theirs = some_of(stream(self.key, "theirs"), data, self.target, self.images)
        x, theirs = (as_unit(jnp.asarray(images)) for images in (x, theirs))
        return Entangling(x, theirs, self.target, self.strength, self.ratio, self.alone, self.count)
