"""What detectors share: from a score of suspicion to a model that gives no answer (models/rejecting.py).

A detector learns its score on training images and its threshold on others that it has not seen, a fifth of those it may
use; the model itself was trained on all of them, so that new images may well be rejected more often: what counts is the
measured `rejected_clean` (threats/detection.py).
Shapes: N images, D input shape, C classes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.model.preprocessing import ModelDefence
from robustbench_jax.keys import stream
from robustbench_jax.models.features import each
from robustbench_jax.models.rejecting import Rejecting
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive

HELD_OUT = 5  # one image in so many is for the threshold


class Score:
    """What a detector has learnt. A record: its arrays are traced, so that what is learnt anew compiles nothing."""

    def __call__(self, model: Classifier, x: jax.Array) -> jax.Array:
        """How suspicious one image x [D] is to `model`: a scalar, larger for more."""
        raise NotImplementedError

    def past(self, model: Classifier, x: jax.Array) -> jax.Array:
        """The same, to the bit, with a derivative of use where its own is of none."""
        return self(model, x)


@record
class Threshold:
    """A score and the limit above which an image gets no answer. scale: how many logits one unit of score is worth."""

    score: Any
    limit: Any
    scale: Any

    def excess(self, model: Classifier, x: jax.Array, past: bool = False) -> jax.Array:
        """By how much the score of x [D] is above the limit, in logits."""
        score = self.score.past(model, x) if past else self.score(model, x)
        return self.scale * (score - self.limit)


class Detector(ModelDefence):
    """A model defence that gives no answer to suspicious images.

    fpr: the share of the held-out clean images that it may reject, the model being right or wrong on them.
    images: how many training images are used, a fifth of them for the threshold.
    """

    fpr: float
    images: int

    def __post_init__(self):
        if not 0 < self.fpr < 1:
            raise UserError(f"{self.registered[1]}: fpr = {self.fpr} must be between 0 and 1")
        require_positive(self.registered[1], images=self.images)

    def fit(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Score:
        """The score, learnt from training images. The key is consumed."""
        raise NotImplementedError

    def served(self, score: Any, classifier: Classifier) -> Classifier:
        """The model that answers where it is not rejected."""
        return classifier

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        if classifier.rejects:
            raise UserError(f"{self.registered[1]}: the model rejects images already; give it one detector")
        seen, held_out = _apart(stream(key, "held out"), self, data)
        score = self.fit(stream(key, "fit"), classifier, seen)
        model = self.served(score, classifier)
        scores, margins = each(_measured, model, held_out.x, score)
        if not np.isfinite(scores).all():
            raise UserError(
                f"{self.registered[1]}: the score of {np.sum(~np.isfinite(scores))} clean images is not finite"
            )
        fitted = Threshold(score, np.float32(threshold(scores, self.fpr)), np.float32(exchange(margins, scores)))
        return Classifier(Rejecting(model.net, model.stochastic), (model.params, jax.tree.map(jnp.asarray, fitted)))


def threshold(scores: np.ndarray, fpr: float) -> float:
    """The lowest limit that at most a share `fpr` of scores [N] is above: midway from one score to the next larger one,
    so that rounding turns none over; tied scores are on the same side of it. The largest where `fpr` allows for none.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    allowed = int(np.floor(fpr * len(ordered) + 1e-9))
    last = ordered[len(ordered) - 1 - allowed]
    above = ordered[ordered > last]
    return float((last + above[0]) / 2 if len(above) else last)


def exchange(margins: np.ndarray, scores: np.ndarray) -> float:
    """Logits for a unit of score: as many as make its standard deviation over clean images that of the margin between
    the two largest logits [N]; 1 where either does not vary.
    """
    logits, own = np.std(margins, dtype=np.float64), np.std(scores, dtype=np.float64)
    return float(logits / own) if logits > 0 and own > 0 else 1.0


def by_class(owner: str, data: Dataset, least: int) -> np.ndarray:
    """How many images each class has [C]. Raises UserError where one has fewer than `least`."""
    counts = np.bincount(data.y, minlength=len(data.classes))
    few = np.flatnonzero(counts < least)
    if len(few):
        raise UserError(
            f"{owner}: class '{data.classes[few[0]]}' has {counts[few[0]]} of the {len(data)} images that it is fitted "
            f"on, and {least} are needed: give more training images"
        )
    return counts


def _apart(key: jax.Array, detector: Detector, data: Dataset) -> tuple[Dataset, Dataset]:
    """Images for the score and images for the threshold, drawn from the data."""
    if len(data) < 2:
        raise UserError(f"{detector.registered[1]}: {len(data)} training images; at least 2 are needed")
    rows = np.asarray(jax.random.permutation(key, len(data)))[: max(detector.images, 2)]
    count = max(1, len(rows) // HELD_OUT)
    return tuple(dataclasses.replace(data, x=data.x[part], y=data.y[part]) for part in (rows[count:], rows[:count]))


def _measured(model: Classifier, x: jax.Array, score: Score) -> tuple[jax.Array, jax.Array]:
    top = jax.lax.top_k(model(x), 2)[0]
    return score(model, x), top[0] - top[1]
