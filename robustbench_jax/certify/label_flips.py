"""Certificates against flipped labels, of a last layer that is linear in them: label_flips, label_flip_smoothing.

They prove that no other labels of at most n training images change the class; images are as they are. Both are about
what `least_squares` trained: the score of class c is the sum of a_i over the images i with that label.
label_flips: the fewest flips that bring one class before another are those that move the difference of their scores
most, found by sorting: exact, up to rounding.
label_flip_smoothing: Rosenfeld, Winston, Ravikumar & Kolter, ICML 2020, arXiv:2002.03018, is about another classifier,
the majority vote over noise on the labels: each is kept with probability 1 - q and else another one, evenly. A Chernoff
bound, in closed form, says with which probability the vote is for c at least. Departs from the paper: that n flips
leave more than half of it is found exactly, by the lemma of Neyman and Pearson, where the paper bounds the probability
by a divergence of Kullback and Leibler; never less is certified.
Shapes: B images, N training images, C classes, T values of the bound's parameter.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.models.readout import LABELS, Readout
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import Runtime, by_slices
from robustbench_jax.registry import register
from robustbench_jax.types import Certificate, Certifier, Classifier, UserError, record, static

BUDGETS = ("flips",)
WIDTH = 32  # images at once
ROUNDING = 1e-5  # of scores, in units of the sum of their sizes
SLACK = 0.02  # of a float32 sum of logarithms; a bound may hold for any parameter, so these need not be the best
LEAST = 1e-290  # probabilities that float64 tells apart
PARAMETERS = np.geomspace(0.3, 60.0, 24)  # in units of 1 / |a|


class OfLabels(Certifier):
    """What is certified of a readout from the influences of its training images."""

    def found(self, influence: jax.Array, labels: jax.Array, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """(classes [B], radii [B]) from the influences [B, N] and the labels [N]; -1 for no class and for nothing."""
        raise NotImplementedError

    def certify(
        self,
        key: jax.Array,
        model: Classifier,
        x: np.ndarray,
        y: np.ndarray,
        budget: Any,
        *,
        ids: np.ndarray,
        runtime: Runtime,
        report: Callable[[int], None] = lambda settled: None,
    ) -> Certificate:
        """As Certifier says; radius float [B], the largest number of flips, -1 where the class is wrong.

        Raises UserError for what `least_squares` did not train.
        """
        if not isinstance(model.net, Readout):
            raise UserError(f"{self.registered[1]} certifies what defence least_squares trained")
        if not len(x):
            return Certificate.empty(0)
        labels, classes = model.params[LABELS], model.params["head/bias"].shape[0]
        parts = []
        for at in range(0, len(x), WIDTH):
            part = x[at : at + WIDTH]
            spoken = by_slices(lambda some: _influence(model, as_unit(some)), [part], len(part))
            parts.append(self.found(jnp.asarray(spoken), labels, classes))
            report(at + len(part))
        prediction, radius = (np.concatenate(values) for values in zip(*parts, strict=True))
        right = prediction == y
        return Certificate(
            certified=right & (radius >= budget.n),
            prediction=prediction,
            margin=np.full(len(x), np.nan),
            radius=np.where(right, radius, -1).astype(float),
            counts={"forward_evaluations": len(x)},
        )


@register("certifier", "label_flips", paper="rosenfeld2020", budgets=BUDGETS)
@record
class LabelFlips(OfLabels):
    """Of the ridge regression itself."""

    def found(self, influence: jax.Array, labels: jax.Array, classes: int) -> tuple[np.ndarray, np.ndarray]:
        spoken, labels = np.asarray(influence, np.float64), np.asarray(labels)
        each = [fewest(own, labels, classes) for own in spoken]
        prediction, flips = (np.array(values) for values in zip(*each, strict=True))
        return prediction, flips - 1


@register("certifier", "label_flip_smoothing", paper="rosenfeld2020", budgets=BUDGETS)
@record
class LabelFlipSmoothing(OfLabels):
    """q: how likely the noise changes a label. It abstains where no class is proved to have most votes."""

    q: float = static(default=0.1)
    own_prediction = True

    def __post_init__(self):
        if not 0 < self.q < 1:
            raise UserError(f"label_flip_smoothing: q = {self.q} must be above 0 and below 1")

    def found(self, influence: jax.Array, labels: jax.Array, classes: int) -> tuple[np.ndarray, np.ndarray]:
        if self.q >= 1 - 1 / classes:
            raise UserError(
                f"label_flip_smoothing: q = {self.q} must be below {1 - 1 / classes:g} for {classes} classes"
            )
        top, log_failure = map(np.asarray, _votes(influence, labels, self.q, classes))
        allowed = allowed_failures(self.q, classes, len(labels))
        radius = np.searchsorted(-allowed, -(log_failure.astype(np.float64) + SLACK)) - 1
        return np.where(radius < 0, -1, top), radius


def fewest(influence: np.ndarray, labels: np.ndarray, classes: int) -> tuple[int, int]:
    """(class, flips) of one image from the influences [N]: at least so many flips change its class; N + 1 where none
    do.
    """
    scores = np.bincount(labels, influence, classes)
    top, size = int(scores.argmax()), np.abs(influence)
    slack, found = ROUNDING * size.sum(), len(labels) + 1
    for other in (c for c in range(classes) if c != top):
        most = np.where(labels == top, 2.0 * (influence > 0), np.where(labels == other, 2.0 * (influence < 0), 1.0))
        moved = np.cumsum(np.sort(most * size)[::-1])
        found = min(found, int(np.searchsorted(moved, scores[top] - scores[other] - slack)) + 1)
    return top, found


@jax.jit
def _influence(model: Classifier, x: jax.Array) -> jax.Array:
    return jax.vmap(lambda image: model.net.influence(model.params, image))(x)


@partial(jax.jit, static_argnames="classes")
def _votes(influence: jax.Array, labels: jax.Array, q: float, classes: int) -> tuple[jax.Array, jax.Array]:
    """(class [B], logarithm [B] of a bound of how likely the noise votes for another one)."""
    marks = jax.nn.one_hot(labels, classes)

    def one(spoken):
        top = jnp.argmax(spoken @ marks)  # the noise is even, so this class has the largest score on average, too
        return top, jax.nn.logsumexp(jnp.where(jnp.arange(classes) == top, -jnp.inf, _overtakes(spoken, marks, q, top)))

    return jax.lax.map(one, influence)


def _overtakes(spoken: jax.Array, marks: jax.Array, q, top: jax.Array) -> jax.Array:
    """[C]: for each class, the logarithm of a bound of how likely the noise makes its score at least that of `top`."""
    away = q / (marks.shape[1] - 1)

    def bound(t):
        up, down = jnp.expm1(t * spoken), jnp.expm1(-t * spoken)
        of_top = jnp.log1p(away * up + (1 - q) * down) @ marks
        of_other = jnp.log1p((1 - q) * up + away * down) @ marks
        of_third = jnp.log1p(away * (up + down)) @ marks
        return jnp.sum(of_third) - of_third + of_other + (of_top - of_third)[top]

    return jnp.min(jax.lax.map(bound, PARAMETERS / jnp.linalg.norm(spoken)), axis=0)


@lru_cache
def allowed_failures(q: float, classes: int, most: int) -> np.ndarray:
    """By r = 0, 1, ..., falling: the logarithm that the probability of other votes must be below for a class to keep
    more than half of them under any r flips; no longer than float64 tells such probabilities apart.

    Of a flipped image noise says the old label with probability 1 - q before and q / (C - 1) after, and of the new one
    the other way round. So the votes that are lost at worst are those of the largest sums of (new label, +1) and (old
    label, -1) over the flipped images, up to half of their probability after.
    """
    away = q / (classes - 1)
    after, step, found = np.ones(1), np.array([away, away * (classes - 2), 1 - q]), []  # by the sum, from -r to r
    while len(found) <= most:
        lost = np.cumsum(after[::-1])  # from the largest sum down; before, `after` has the probabilities in that order
        last = min(int(np.searchsorted(lost, 0.5)), len(after) - 1)
        left = 0.5 - (lost[last - 1] if last else 0.0)
        mass = after[:last].sum() + left / after[::-1][last] * after[last]
        if mass < LEAST:
            break
        found.append(np.log(mass))
        after = np.convolve(after, step)
    return np.array(found)
