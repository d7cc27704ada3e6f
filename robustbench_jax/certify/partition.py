"""Certificates against poisoning, from the votes of models that were trained on partitions: deep_partition,
run_off_election.

They prove that no change of at most n training images changes the class. Adding or removing an image counts 1,
replacing one 2; a flipped label counts 1, because images are dealt out by their pixels alone (ops/partitions.py).
References: Levine & Feizi, ICLR 2021, arXiv:2006.14768; with several models an image Wang, Levine & Feizi, ICML 2022,
arXiv:2202.02628; run-off election: Rezaei, Banihashem, Chegini & Feizi, ICML 2023, arXiv:2302.02300: the two classes of
most votes, and between them the one that most models give the larger logit.
For a class c to overtake the winner the gap of votes must close. A poison reaches the models that see one bucket: each
of them that votes for the winner closes it by 2, each that votes for neither by 1. The largest such sums over buckets
bound what r poisons can do.
Departs from the paper: that both of two classes overtake the winner in the first round is bounded by the sum of their
gaps (a vote for the winner closes 3, another one 1), not by the exact recursion: never more than it.
Shapes: B images, M models and buckets, C classes.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robustbench_jax.models.ensemble import Ensemble
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.partitions import offsets
from robustbench_jax.ops.runtime import Runtime, by_slices
from robustbench_jax.registry import register
from robustbench_jax.types import Certificate, Certifier, Classifier, UserError, record

BUDGETS = ("count",)


class ByVotes(Certifier):
    """What is elected by votes of an ensemble's models. trained_by: the defence that makes such an ensemble."""

    trained_by = "partitioned(partitions=50)"

    def fits(self, net: Ensemble) -> bool:
        """Whether the ensemble is of the kind that it certifies."""
        return not net.draws

    def radii(self, logits: np.ndarray, net: Ensemble) -> tuple[np.ndarray, np.ndarray]:
        """(classes [B], radii [B]) of images from the logits [B, M, C] of all models; -1 for nothing certified."""
        shifts = offsets(net.models, net.spread)
        found = [self.elected(each, shifts) for each in logits]
        prediction, radius = (np.array(values) for values in zip(*found, strict=True))
        return prediction, radius

    def elected(self, logits: np.ndarray, shifts: np.ndarray) -> tuple[int, int]:
        """(class, radius) of one image from the logits [M, C] of all models."""
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
        """As Certifier says; radius float [B], the largest number of poisons, -1 where the class is wrong.

        evidence: votes int [B, C]. Raises UserError for what is no ensemble of partitions.
        """
        name = self.registered[1]
        if not isinstance(model.net, Ensemble) or not self.fits(model.net):
            made = self.trained_by.partition("(")[0]
            raise UserError(f"{name} certifies what defence {made} trained, e.g. {self.trained_by}")
        if not len(x):
            return Certificate.empty(0)
        logits = np.asarray(by_slices(lambda part: _members(model, as_unit(part)), [x], min(64, len(x))))
        prediction, radius = self.radii(logits, model.net)
        right = prediction == y
        report(len(x))
        votes = np.stack([np.bincount(each.argmax(-1), minlength=each.shape[-1]) for each in logits])
        return Certificate(
            certified=right & (radius >= budget.n),
            prediction=prediction,
            margin=np.full(len(x), np.nan),
            radius=np.where(right, radius, -1).astype(float),
            counts={"forward_evaluations": len(x) * model.net.models},
            evidence={"top_votes": votes.max(-1)},
        )


@register("certifier", "deep_partition", paper="levine2021", budgets=BUDGETS)
@record
class DeepPartition(ByVotes):
    """Of the most votes; ties go to the lower class."""

    def elected(self, logits: np.ndarray, shifts: np.ndarray) -> tuple[int, int]:
        votes = logits.argmax(-1)
        counts = np.bincount(votes, minlength=logits.shape[-1])
        top = int(counts.argmax())
        others = [c for c in range(len(counts)) if c != top]
        return top, min(needed(votes, top, c, len(counts), shifts) for c in others) - 1


@register("certifier", "run_off_election", paper="rezaei2023", budgets=BUDGETS)
@record
class RunOffElection(ByVotes):
    """As cheap as deep_partition, and certifies more where two classes share the votes. It may elect another class
    than most votes, so it is a model of its own.
    """

    own_prediction = True

    def elected(self, logits: np.ndarray, shifts: np.ndarray) -> tuple[int, int]:
        votes, classes = logits.argmax(-1), logits.shape[-1]
        counts = np.bincount(votes, minlength=classes)
        first, second = np.argsort(-counts, kind="stable")[:2]
        winner = _run_off(logits, int(first), int(second))
        others = [c for c in range(classes) if c != winner]
        lost = [self._beaten(logits, votes, winner, c, others, shifts) for c in others]
        out = [_both(votes, winner, a, b, classes, shifts) for i, a in enumerate(others) for b in others[:i]]
        return winner, min([*lost, *out]) - 1

    def _beaten(self, logits, votes, winner: int, rival: int, others: list[int], shifts) -> int:
        """Poisons without which `rival` cannot come into the run-off and win it against the winner."""
        classes = logits.shape[-1]
        enters = [needed(votes, c, rival, classes, shifts) for c in others if c != rival]
        duel = _duel(logits, winner, rival)
        wins = needed(duel, winner, rival, classes, shifts)
        return max([wins, *([max(enters)] if enters else [0])])


def needed(votes: np.ndarray, a: int, b: int, classes: int, shifts: np.ndarray) -> int:
    """At least so many poisons are needed for b to come before a in votes [M]. Ties go to the lower class."""
    counts = np.bincount(votes, minlength=classes)
    gap = int(counts[a] - counts[b]) - int(b < a)  # a stays before b as long as it is at least 0
    return _reached(np.where(votes == a, 2, np.where(votes == b, 0, 1)), gap + 1, shifts)


def _both(votes: np.ndarray, top: int, a: int, b: int, classes: int, shifts: np.ndarray) -> int:
    """The fewest poisons, at least, for both a and b to come before `top`."""
    counts = np.bincount(votes, minlength=classes)
    gaps = [int(counts[top] - counts[c]) - int(c < top) + 1 for c in (a, b)]
    closes = np.where(votes == top, 3, np.where((votes == a) | (votes == b), 0, 1))
    alone = [needed(votes, top, c, classes, shifts) for c in (a, b)]
    return max(*alone, _reached(closes, sum(gaps), shifts))


def _reached(closes: np.ndarray, wanted: int, shifts: np.ndarray) -> int:
    """The fewest buckets whose models close so much: closes [M] by model. All of them and one, where none suffice."""
    if wanted <= 0:
        return 0
    of_bucket = sum(np.roll(closes, -shift) for shift in shifts)
    total = np.cumsum(np.sort(of_bucket)[::-1])
    return int(np.searchsorted(total, wanted)) + 1


def _duel(logits: np.ndarray, a: int, b: int) -> np.ndarray:
    """For each model, which of the two classes it gives the larger logit; the lower one where they are equal."""
    low, high = min(a, b), max(a, b)
    return np.where(logits[:, high] > logits[:, low], high, low)


def _run_off(logits: np.ndarray, a: int, b: int) -> int:
    """The winner; the lower class where they are level."""
    low, high = min(a, b), max(a, b)
    duel = _duel(logits, a, b)
    return high if np.sum(duel == high) > np.sum(duel == low) else low


@jax.jit
def _members(model: Classifier, x: jax.Array) -> jax.Array:
    return jax.vmap(lambda x: model.net.members(model.params, x))(x)
