"""output_perturbation(epsilon, delta): the best linear classifier there is, and noise on its weights, once.

Reference: Chaudhuri, Monteleoni & Sarwate, JMLR 2011, arXiv:0912.0071, Algorithm 1. The mean loss with l2 / 2 times
the squared weights, constants included, is strongly convex: where the gradients of single losses are at most L long,
replacing one of n examples moves its minimum by at most 2 L / (n l2). Training images longer than `bound` are shortened
to it, so that L = sqrt(2) sqrt(bound^2 + 1) for the softmax regression (sqrt(2) is the longest difference of
probabilities and a label). The minimum is only approached: where the gradient left is at most r, the weights are within
r / l2 of it, and twice that is added to the distance. delta = 0: noise of density exp(-epsilon |noise| / distance), as
published; else Gaussian noise.
Departs from the paper: several classes, constants, Gaussian noise, and the gradient that is left counts.
Shapes: n images, F pixels, C classes.
"""

import math
from importlib.metadata import version

import jax
import numpy as np

from robustbench_jax.keys import generator, stream
from robustbench_jax.learning_curve import Curve, Progress
from robustbench_jax.ops.accounting import Guarantee
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.regression import log_shares, slope_left, softmax_minimum
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.training import Run, Trained, TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive

SLACK = 0.01  # of the gradient that may be left, over L / n


@register("training", "output_perturbation", paper="chaudhuri2011")
@record
class OutputPerturbation(TrainingDefence):
    """epsilon, delta: for examples that are replaced. l2: of the penalty; bound: of an image's length, pixels from 0 to
    1. For `mlp([])` alone; of the recipe nothing is used.
    """

    epsilon: float = 3.0
    delta: float = 1e-5
    l2: float = 0.1
    bound: float = 10.0

    def __post_init__(self):
        require_positive("output_perturbation", epsilon=self.epsilon, l2=self.l2, bound=self.bound)
        if isinstance(self.delta, float) and not 0 <= self.delta < 1:
            raise UserError(f"output_perturbation: delta = {self.delta} must be at least 0 and below 1")

    def guarantee(self, recipe: Recipe, images: int) -> Guarantee:
        """What was asked for: noise is made to fit."""
        kind, scale = ("Gaussian", self._deviation(images)) if self.delta else ("exponential", self.distance(images))
        terms = f"{kind} noise on the minimum of a convex loss, l2 {float(self.l2):g}, one example replaced"
        named = f"Chaudhuri et al. 2011, dp-accounting {version('dp-accounting')}"
        return Guarantee(float(self.epsilon), float(self.delta), scale, 1.0, 1, named, terms)

    def distance(self, images: int) -> float:
        """How far two results, of data that differ in one example, can be from each other before the noise."""
        return 2 * longest(float(self.bound)) * (1 + SLACK) / (images * float(self.l2))

    def _deviation(self, images: int) -> float:
        from dp_accounting import get_sigma_gaussian

        return self.distance(images) * get_sigma_gaussian(float(self.epsilon), float(self.delta))

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """A run that was killed begins anew. Raises UserError for anything but a linear model, and where the minimum
        was not come near enough to.
        """
        if set(model.net.trainable(model.params)) != {"head/kernel", "head/bias"}:
            raise UserError("output_perturbation: only a convex loss has a known distance; take the model 'mlp([])'")
        x, allowed = shortened(data.x, float(self.bound)), SLACK * longest(float(self.bound)) / len(data)
        weights = softmax_minimum(x, data.y, len(data.classes), float(self.l2), allowed)
        left = slope_left(x, data.y, weights, float(self.l2))
        if left > allowed:
            raise UserError(f"output_perturbation: a gradient of {left:.2g} is left, above {allowed:.2g}; raise l2")
        logs = log_shares(x, weights)
        loss, right = -float(np.mean(logs[np.arange(len(data)), data.y])), float(np.mean(logs.argmax(-1) == data.y))
        run.report(Progress(1, 1, loss, right))
        noisy = weights + self._noise(stream(key, "noise"), weights.shape, len(data))
        params = model.params | {
            "head/kernel": noisy[:-1].astype(np.float32),
            "head/bias": noisy[-1].astype(np.float32),
        }
        return model.replace(params={k: jax.numpy.asarray(v) for k, v in params.items()}), Curve(
            (loss,), (right,), None, None, kept=1, steps=1
        )

    def _noise(self, key: jax.Array, shape: tuple[int, ...], images: int) -> np.ndarray:
        rng = generator(key)
        draw = rng.normal(size=shape)
        if self.delta:
            return self._deviation(images) * draw
        size = rng.gamma(math.prod(shape), self.distance(images) / float(self.epsilon))
        return size * draw / np.linalg.norm(draw)


def longest(bound: float) -> float:
    """The longest gradient of one image's loss by the weights and constants."""
    return math.sqrt(2) * math.sqrt(bound**2 + 1)


def shortened(x: np.ndarray, bound: float) -> np.ndarray:
    """float64 [n, F]: images no longer than `bound`."""
    flat = as_unit(x).reshape(len(x), -1).astype(np.float64)
    return flat * np.minimum(1, bound / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12))
