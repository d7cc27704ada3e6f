"""lid(k): no answer where the training images around the image spread in too many directions.

Reference: local intrinsic dimensionality, Ma et al., ICLR 2018, arXiv:1801.02613. Its maximum likelihood estimate from
the distances r_1 <= ... <= r_k to the k nearest of a batch of training images, -1 / mean(log(r_i / r_k)), is taken of
what every layer sees. A logistic regression over the layers is learnt from training images as they are, with noise of
the same L2 size, and attacked; the score is its logit. Broken by Athalye, Carlini & Wagner, ICML 2018,
arXiv:1802.00420.
Departs from the paper: neighbours come from one batch that is kept, not from the other images of the same request.
Shapes: D input shape, L layers, R reference images, N images. Written for one example.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from robustbench_jax.defences.serving.detector import Detector, Score
from robustbench_jax.keys import per_example, stream
from robustbench_jax.models.features import each, layer_inputs
from robustbench_jax.ops.drive import attack_batch
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, static

TINY = 1e-20  # of squared distances: an image that lies in the reference batch has neighbours at 0
LARGEST = 1e4  # of an estimate: where all k neighbours are equally far it would be infinite
SLICE = 128  # images that are attacked at once


@record
class Dimensions(Score):
    """reference: what each of L layers sees of the R images [R, ...]; weights [L] and bias of the regression."""

    reference: Any
    weights: Any
    bias: Any
    k: int = static(default=20)

    def __call__(self, model: Classifier, x: jax.Array) -> jax.Array:
        return jnp.dot(self.estimates(model, x), self.weights, precision=jax.lax.Precision.HIGHEST) + self.bias

    def estimates(self, model: Classifier, x: jax.Array) -> jax.Array:
        """The estimate of each layer [L]."""

        def one(near, value):
            return dimensionality(jnp.sum((near - value).reshape(len(near), -1) ** 2, axis=-1), self.k)

        return jnp.stack([one(*pair) for pair in zip(self.reference, layer_inputs(model, x), strict=True)])


@register("model_defence", "lid", paper="ma2018", parts={"attack": "attack", "budget": "budget"})
@record
class LID(Detector):
    """k: neighbours out of `batch` reference images. attack, budget: what the regression learns from; any attack
    that is no cascade and prepares nothing. fpr, images: see Detector.
    """

    k: int = 20
    batch: int = 100
    attack: Any = "fgsm"
    budget: Any = "linf(8/255)"
    fpr: float = 0.05
    images: int = 1000

    def __post_init__(self):
        super().__post_init__()
        if not 2 <= self.k <= self.batch:
            raise UserError(f"lid: k = {self.k} must be from 2 to batch = {self.batch}")
        if getattr(self.attack, "composite", False) or getattr(self.attack, "prepares", False):
            raise UserError(f"lid: attack = {self.attack.registered[1]} is no single attack: give e.g. fgsm or pgd")

    def fit(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Dimensions:
        if len(data) < self.batch + 2:
            raise UserError(
                f"lid: {len(data)} training images are left to fit on; batch = {self.batch} and 2 are needed"
            )
        near, x, y = data.x[: self.batch], as_unit(data.x[self.batch :]), data.y[self.batch :]
        bare = Dimensions(each(layer_inputs, classifier, near), 0.0, 0.0, self.k)
        bad = self._attacked(stream(key, "attack"), classifier, x, y)
        kinds = [x, _noisy(stream(key, "noise"), x, bad), bad]
        found = [each(_estimates, classifier, images, bare) for images in kinds]
        return bare.replace(**regression(np.concatenate(found), np.repeat([False, False, True], len(x))))

    def _attacked(self, key: jax.Array, model: Classifier, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        ids, attack = np.arange(len(x)), self.attack.against(model, x.shape[1:])
        return np.concatenate(
            [
                np.asarray(attack_batch(key, attack, model, self.budget, x[part], y[part], part))
                for part in np.split(ids, range(SLICE, len(ids), SLICE))
            ]
        )


def dimensionality(squares: jax.Array, k: int) -> jax.Array:
    """The estimate from squared distances [R] to the reference images; never above LARGEST."""
    nearest = jnp.log(jnp.maximum(-jax.lax.top_k(-squares, k)[0], TINY)) / 2
    return 1 / jnp.maximum(nearest[-1] - jnp.mean(nearest), 1 / LARGEST)


def regression(values: np.ndarray, positive: np.ndarray) -> dict[str, np.ndarray]:
    """Logistic regression of bool [N] on values [N, L], standardised, with a ridge of 1/2 |w|^2; weights [L] and bias
    for values as they are.
    """
    values, sign = np.asarray(values, np.float64), np.where(positive, 1.0, -1.0)
    mean, std = values.mean(0), values.std(0)
    std = np.where(std > 0, std, 1.0)
    rows = np.column_stack([(values - mean) / std, np.ones(len(values))])

    def loss(w):
        margins = sign * (rows @ w)
        slope = -sign / (1 + np.exp(np.clip(margins, -500, 500)))
        ridge = np.append(w[:-1], 0.0)
        return np.sum(np.logaddexp(0, -margins)) + ridge @ ridge / 2, rows.T @ slope + ridge

    w = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x
    weights = w[:-1] / std
    return {"weights": weights.astype(np.float32), "bias": np.float32(w[-1] - weights @ mean)}


def _estimates(model: Classifier, x: jax.Array, score: Dimensions) -> jax.Array:
    return score.estimates(model, x)


def _noisy(key: jax.Array, x: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """x [N, D] with Gaussian noise of the L2 size that each image's perturbation has, before both are cut to [0, 1]."""
    keys = per_example(key, np.arange(len(x)))
    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys))
    axes = tuple(range(1, x.ndim))
    size, own = (np.sqrt(np.sum(z**2, axis=axes, keepdims=True)) for z in (bad - x, noise))
    return np.clip(x + noise * (size / own), 0, 1).astype(np.float32)
