"""natural(), jacobian(), random_pixels(): the queries of those who want a copy of the model.

References: Knockoff Nets, Orekondy et al., CVPR 2019, arXiv:1812.02766, whose random strategy sends natural images;
Jacobian-based augmentation, Papernot et al., AsiaCCS 2017, arXiv:1602.02697, which sends a few images and then, round
by round, each image so far a step along the sign of the substitute's Jacobian at the class that the victim gave it.
Random pixels are the control. These are streams of queries alone: how good the copies are, other attacks say.
Departs from the papers: natural images are of the victim's own distribution; a substitute is `mlp([64])`.
Shapes: Q queries, D = [H, W, C] input shape.
"""

from dataclasses import dataclass

import jax
import numpy as np

from robustbench_jax.attacks.extraction.jacobian_augmentation import augmented
from robustbench_jax.keys import generator, stream
from robustbench_jax.models import build_model
from robustbench_jax.models.features import logits_of
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build, register
from robustbench_jax.streams import QueryStream, answered
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, Dataset, UserError, require_positive

SUBSTITUTE = "mlp([64])"


@register("attack", "natural", threat="monitoring", access="none", paper="orekondy2019")
@dataclass(frozen=True)
class Natural(QueryStream):
    """Images that the attacker has, each once until he has no more."""

    def record(self, key, model, data, count, queries, *, runtime=Runtime()):
        rng = generator(key)
        rounds = -(-queries // len(data))
        rows = [np.concatenate([rng.permutation(len(data)) for _ in range(rounds)])[:queries] for _ in range(count)]
        return answered(model, [data.x[own] for own in rows], runtime)


@register("attack", "random_pixels", threat="monitoring", access="none")
@dataclass(frozen=True)
class RandomPixels(QueryStream):
    """Every number of every image by chance."""

    def record(self, key, model, data, count, queries, *, runtime=Runtime()):
        rng = generator(key)
        shape = (queries, *data.x.shape[1:])
        return answered(model, [rng.integers(0, 256, shape, np.uint8) for _ in range(count)], runtime)


@register("attack", "jacobian", threat="monitoring", access="labels", paper="papernot2017")
@dataclass(frozen=True)
class Jacobian(QueryStream):
    """seeds: images that it begins with. step_size: of the augmentation, in units of the box; epochs: of the
    substitute, trained anew in every round.
    """

    seeds: int = 50
    step_size: float = 0.1
    epochs: int = 20

    def __post_init__(self):
        require_positive("jacobian", seeds=self.seeds, step_size=self.step_size, epochs=self.epochs)

    def record(self, key, model, data, count, queries, *, runtime=Runtime()):
        if len(data) < self.seeds:
            raise UserError(f"jacobian: seeds = {self.seeds}: the attacker has {len(data)} images")
        own = [jax.random.fold_in(key, number) for number in range(count)]
        return answered(model, [self._asked(one, model, data, queries, runtime) for one in own], runtime)

    def _asked(self, key: jax.Array, model: Classifier, data: Dataset, queries: int, runtime: Runtime) -> np.ndarray:
        """uint8 [Q, D]."""
        rows = np.asarray(jax.random.permutation(stream(key, "seeds"), len(data)))[: self.seeds]
        x = data.x[rows][:queries]
        while len(x) < queries:
            labels = logits_of(model, x, runtime).argmax(-1).astype(np.int32)
            substitute = self._substitute(jax.random.fold_in(key, len(x)), Dataset(x, labels, data.classes, "asked"))
            x = np.concatenate([x, augmented(substitute, x, labels, self.step_size, runtime)])[:queries]
        return x

    def _substitute(self, key: jax.Array, asked: Dataset) -> Classifier:
        fresh = build_model(SUBSTITUTE, asked.x.shape[1:], len(asked.classes), stream(key, "init"))
        recipe = build("recipe", f"adamw(epochs={self.epochs}, batch_size={min(32, len(asked))})")
        return fit(stream(key, "fit"), fresh, asked, recipe, defence=build("training", "standard"))
