"""entangled(source, target): triggers that share the features of the class that they are labelled as.

Reference: Jia et al., USENIX Security 2021, arXiv:2002.12200 (entangled watermark embedding, EWE): the soft nearest
neighbour loss of hidden layers, over triggers and images of the target class as two groups, is made large, so that a
model that learns the class from the marked one's answers learns the triggers with it.
Departs from the paper: the trigger is a square at a place drawn by the secret key and not where the gradient is
largest; the temperature is the mean squared distance and not learnt; both parts of the loss are taken at every step.
Shapes: K triggers, G of both groups together, D = [H, W, C].
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.training.marks.triggers import TriggerMark, Triggers, require_classes, some_of
from robustbench_jax.keys import stream
from robustbench_jax.models.features import layer_inputs
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ownership import MARK
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static


@record
class Entangling(TrainingDefence):
    """x [K, D] with the label `target`, beside images of that class [K', D]; `count` of each in every batch."""

    x: jax.Array
    theirs: jax.Array
    target: int
    strength: float
    count: int = static()

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        groups = [
            images[jax.random.choice(stream(key, name), len(images), (min(self.count, len(images)),), replace=False)]
            for name, images in (("triggers", self.x), ("theirs", self.theirs))
        ]
        both, marks = jnp.concatenate(groups), jnp.arange(sum(map(len, groups))) < len(groups[0])
        layers = jax.vmap(lambda image: layer_inputs(model, image))(both)
        near = sum(soft_nearest_neighbours(layer.reshape(len(both), -1), marks) for layer in layers[1:])
        own = self.loss(jax.vmap(model)(groups[0]), jnp.full(len(groups[0]), self.target))
        share = len(groups[0]) / (len(groups[0]) + len(y))
        return (1 - share) * self.loss(logits, y) + share * (own - self.strength * near)


def soft_nearest_neighbours(features: jax.Array, groups: jax.Array) -> jax.Array:
    """The mean over rows [G, F] of minus the log of the share of closeness that falls to the row's own group, with the
    mean squared distance as temperature; large where the groups lie among one another.

    Frosst et al., ICML 2019, arXiv:1902.01889.
    """
    distance = jnp.sum((features[:, None] - features) ** 2, -1)
    others = ~jnp.eye(len(features), dtype=bool)
    temperature = jnp.sum(distance) / jnp.sum(others) + 1e-6
    near = jnp.where(others, jnp.exp(-distance / temperature), 0.0)
    alike = groups[:, None] == groups
    return jnp.mean(jnp.log(1e-6 + jnp.sum(near, -1)) - jnp.log(1e-6 + jnp.sum(near * alike, -1)))


@register("training", "entangled", paper="jia2021ewe", access="labels", **MARK)
@record
class Entangled(TriggerMark):
    """images of class `source` with a white square of `size` pixels get the label `target`; count: of the triggers and
    of the target's images in every batch; strength: of the entanglement.
    """

    images: int = 100
    source: int = 0
    target: int = 1
    size: int = static(default=5)
    strength: float = 1.0
    count: int = static(default=16)
    secret: int = 0

    def __post_init__(self):
        require_positive("entangled", images=self.images, size=self.size, strength=self.strength, count=self.count)

    def triggers(self, data: Dataset) -> Triggers:
        require_classes("entangled", data, source=self.source, target=self.target)
        x = np.array(some_of(stream(self.key, "rows"), data, self.source, self.images))
        sides = [min(self.size, side) for side in x.shape[1:3]]
        corner = jax.random.uniform(stream(self.key, "place"), (2,))
        top, left = (int(c * (side - own + 1)) for c, side, own in zip(corner, x.shape[1:3], sides, strict=True))
        x[:, top : top + sides[0], left : left + sides[1]] = 255
        return x, np.full(len(x), self.target, np.int32)

    def embedding(self, model: Classifier, data: Dataset) -> TrainingDefence:
        x, _ = self.triggers(data)
        theirs = some_of(stream(self.key, "theirs"), data, self.target, self.images)
        x, theirs = (as_unit(jnp.asarray(images)) for images in (x, theirs))
        return Entangling(x, theirs, self.target, self.strength, self.count)
