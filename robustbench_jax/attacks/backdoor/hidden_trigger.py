"""hidden_trigger(): images of the target class whose features are those of triggered images of other classes.

Reference: Saha, Subramanya & Pirsiavash, AAAI 2020, arXiv:1910.00033. No poison shows it. Each is paired with a
triggered source image, nearest in features over all pairs, and moved towards it within eps; sources are drawn anew
every DRAW steps. Made for victims that train a new head on frozen features.
Departs from the paper: the pairs are the best assignment, not a greedy one; the trigger has one place; sources are of
all classes but the target unless one is named.
Shapes: R poisons, D = [H, W, C], F features.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import linear_sum_assignment

from robustbench_jax.attacks.backdoor.badnets import Patch, corner_mask
from robustbench_jax.attacks.backdoor.clean_label import CleanLabel
from robustbench_jax.attacks.poisoning.targeted import rounded, within
from robustbench_jax.keys import stream
from robustbench_jax.models.features import features, features_of
from robustbench_jax.ops.images import as_unit
from robustbench_jax.poisons import require_class, stamped
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static

DRAW = 25


@register("attack", "hidden_trigger", threat="backdoor", access="poison_only", paper="saha2020")
@record
class HiddenTrigger(CleanLabel):
    """eps: of each poison; steps of Adam with `learning_rate`; size: of the patch of noise; source: the class whose
    triggered images are to be taken for the target, -1 for all others.
    """

    eps: float = 16 / 255
    steps: int = static(default=200)
    learning_rate: float = 0.01
    size: int = 4
    source: int = -1
    target: int = 0
    references = 1

    def __post_init__(self):
        require_positive("hidden_trigger", eps=self.eps, steps=self.steps, size=self.size)

    def trigger(self, key: jax.Array, data: Dataset) -> Patch:
        if self.source >= 0:
            require_class("hidden_trigger", "source", self.source, len(data.classes))
        height, width, channels = data.x.shape[1:]
        mask = corner_mask("hidden_trigger", height, width, self.size, 1, "bottom_right")
        pattern = jax.random.bernoulli(key, 0.5, (height, width, channels)).astype(jnp.float32)
        return Patch(jnp.asarray(mask), pattern, self.target, "all_to_one")

    def images(
        self, key: jax.Array, rows: np.ndarray, data: Dataset, trigger: Patch, references: tuple[Classifier, ...]
    ) -> np.ndarray:
        model, bases = references[0], as_unit(data.x[rows])
        sources = np.flatnonzero(data.y == self.source if self.source >= 0 else data.y != self.target)
        x, adam, wanted = bases, optax.scale_by_adam().init(bases), None
        for step in range(self.steps if len(rows) else 0):
            if step % DRAW == 0:
                drawn = jax.random.choice(jax.random.fold_in(stream(key, "sources"), step), sources, (len(rows),))
                wanted = _paired(model, x, stamped(stream(key, "stamp"), trigger, data.x[np.asarray(drawn)]))
            x, adam = _step(model, x, adam, bases, wanted, self.eps, self.learning_rate)
        return rounded(np.asarray(x), data.x[rows], float(self.eps))


def _paired(model: Classifier, x: jax.Array, triggered: np.ndarray) -> jax.Array:
    """[R, F]: features of triggered images uint8 [R, D], in the order of the poisons x [R, D] that they go with."""
    wanted = features_of(model, triggered)
    own = np.asarray(_features(model, x), np.float64)
    away = np.sum(own**2, -1)[:, None] + np.sum(wanted**2, -1) - 2 * own @ wanted.T
    return jnp.asarray(wanted[linear_sum_assignment(away)[1]], jnp.float32)


@jax.jit
def _features(model: Classifier, x: jax.Array) -> jax.Array:
    return jax.vmap(lambda image: features(model, image))(x)


@jax.jit
def _step(model, x, adam, bases, wanted, eps, rate):
    change, adam = optax.scale_by_adam().update(
        jax.grad(lambda x: jnp.sum((_features(model, x) - wanted) ** 2))(x), adam
    )
    return within(x - rate * change, bases, eps), adam
