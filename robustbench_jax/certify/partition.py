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

BUDGETS = ("count", "flips")
TOGETHER = 64  # images whose votes are counted at once
NEVER = 2**30  # more poisons than there are


class ByVotes(Certifier):
    """What is elected by votes of an ensemble's models. trained_by: the defence that makes such an ensemble."""

    trained_by = "partitioned(partitions=50)"

    def fits(self, net: Ensemble) -> bool:
        """Whether the ensemble is of the kind that it certifies."""
        return not net.draws

    def radii(self, logits: np.ndarray, net: Ensemble) -> tuple[np.ndarray, np.ndarray]:
        """(classes [B], radii [B]) of images from the logits [B, M, C] of all models; -1 for nothing certified."""
        shifts = offsets(net.models, net.spread)
        found = [self.elected(logits[at : at + TOGETHER], shifts) for at in range(0, len(logits), TOGETHER)]
        prediction, radius = (np.concatenate(values) for values in zip(*found, strict=True))
        return prediction, radius

    def elected(self, logits: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(classes [B], radii [B]) of images from the logits [B, M, C] of all models."""
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

    def elected(self, logits: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        marks = _marks(logits.argmax(-1), logits.shape[-1])
        top = marks.sum(1).argmax(-1)
        return top, _of(needed(marks, shifts), top).min(-1) - 1


@register("certifier", "run_off_election", paper="rezaei2023", budgets=BUDGETS)
@record
class RunOffElection(ByVotes):
    """As cheap as deep_partition, and certifies more where two classes share the votes. It may elect another class
    than most votes, so it is a model of its own.
    """

    own_prediction = True

    def elected(self, logits: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        classes, each = logits.shape[-1], np.arange(len(logits))
        marks = _marks(logits.argmax(-1), classes)
        first, second = np.argsort(-marks.sum(1), axis=-1, kind="stable")[:, :2].T
        duels = _marks(_preferred(logits, first, second[:, None])[:, 0], classes).sum(1)
        # where the two are level the lower class wins
        low, high = np.minimum(first, second), np.maximum(first, second)
        winner = np.where(duels[each, high] > duels[each, low], high, low)
        before = needed(marks, shifts)
        enters = before.copy()  # poisons without which a rival is not among the first two: it overtakes all but one
        enters[each, winner] = 0
        enters = np.where(np.eye(classes, dtype=bool), 0, enters).max(1)
        wins = self._wins(logits, winner, shifts)
        lost = np.where(np.arange(classes) == winner[:, None], NEVER, np.maximum(enters, wins)).min(-1)
        return winner, np.minimum(lost, _both(marks, winner, _of(before, winner), shifts)) - 1

    def _wins(self, logits: np.ndarray, winner: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """[B, C]: poisons that each class needs to win a run-off against the winner."""
        classes = logits.shape[-1]
        against = _preferred(logits, winner, np.broadcast_to(np.arange(classes), (len(logits), classes)))
        wins = np.zeros((len(logits), classes), int)
        for rival in range(classes):
            wins[:, rival] = _of(needed(_marks(against[:, rival], classes), shifts), winner)[:, rival]
        return wins


def needed(marks: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """int [B, C, C]: at least so many poisons are needed for class b to come before a, at [:, a, b], from the models'
    votes one-hot [B, M, C]; NEVER on the diagonal. Ties go to the lower class.
    """
    counts, classes = marks.sum(1), np.arange(marks.shape[-1])
    hits = _hits(marks, shifts)
    gaps = counts[:, :, None] - counts[:, None] - (classes < classes[:, None])  # a stays before b while at least 0
    found = _reached(len(shifts) + hits[:, :, None] - hits[:, None], gaps + 1)  # 2 for a vote for a, none for one for b
    return np.where(np.eye(len(classes), dtype=bool), NEVER, found)


def _both(marks: np.ndarray, top: np.ndarray, alone: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """[B]: the fewest poisons, at least, for two classes to come before `top`; alone [B, C]: for one of them."""
    counts, classes, each = marks.sum(1), np.arange(marks.shape[-1]), np.arange(len(marks))
    hits = _hits(marks, shifts)
    gaps = counts[each, top][:, None] - counts - (classes < top[:, None]) + 1
    closes = len(shifts) + 2 * hits[each, top][:, None, None] - hits[:, :, None] - hits[:, None]
    found = _reached(closes, gaps[:, :, None] + gaps[:, None])
    found = np.maximum(found, np.maximum(alone[:, :, None], alone[:, None]))
    same = np.eye(len(classes), dtype=bool)
    of_top = (classes == top[:, None])[:, :, None] | (classes == top[:, None])[:, None]
    return np.where(same | of_top, NEVER, found).min((1, 2))


def _hits(marks: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """[B, C, M]: how many of the models that see each bucket vote for each class."""
    return np.moveaxis(sum(np.roll(marks, -shift, axis=1) for shift in shifts), 1, -1)


def _reached(closes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[...]: the fewest buckets that close so much: closes [..., M] by bucket. All and one, where none suffice."""
    total = np.cumsum(-np.sort(-closes, axis=-1), axis=-1)
    return np.where(wanted <= 0, 0, np.sum(total < wanted[..., None], axis=-1) + 1)


def _marks(votes: np.ndarray, classes: int) -> np.ndarray:
    """int16 [B, M, C], one-hot, of votes [B, M]."""
    return (votes[..., None] == np.arange(classes)).astype(np.int16)


def _of(pairs: np.ndarray, top: np.ndarray) -> np.ndarray:
    """[B, C]: the row of `top` [B] in pairs [B, C, C]."""
    return pairs[np.arange(len(pairs)), top]


def _preferred(logits: np.ndarray, a: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[B, R, M]: to which of a [B] and each of others [B, R] a model gives the larger logit; the lower where equal."""
    each = np.arange(len(logits))[:, None]
    low, high = np.minimum(a[:, None], others), np.maximum(a[:, None], others)
    over = logits[each, :, high] > logits[each, :, low]
    return np.where(over, high[..., None], low[..., None])


@jax.jit
def _members(model: Classifier, x: jax.Array) -> jax.Array:
    return jax.vmap(lambda x: model.net.members(model.params, x))(x)
