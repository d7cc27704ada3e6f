"""Attacks that look at which values make the model right: csmia (scores), lomia (labels alone).

Reference: Mehnaz et al., USENIX Security 2022, arXiv:2201.09370. Where one value alone gives the record's label, it is
that one. csmia: where several do, the one that the model is surest with; where none does, the one with which it is
least sure of its wrong answer. lomia: for the others, a classifier of the rest of the record, trained on those that one
value alone is right for. Ties go to the commoner value.
Shapes: N records, V values.
"""

import jax
import numpy as np

from robustbench_jax.attributes import AttributeAttack, Records, described
from robustbench_jax.ops.regression import chosen_regression, log_shares
from robustbench_jax.registry import register
from robustbench_jax.suspects import log_probability
from robustbench_jax.types import record

SURE = 1e3  # above any other score
TIE = 1e-9


@register("attack", "csmia", threat="attribute", access="scores", paper="mehnaz2022")
@record
class CSMIA(AttributeAttack):
    """No complete record is used, but for ties."""

    def score(self, key: jax.Array, records: Records) -> np.ndarray:
        said, right = _right(records)
        own = np.stack([log_probability(records.answers[:, v], said[:, v]) for v in range(said.shape[1])], axis=1)
        some = right.any(1, keepdims=True)
        return np.where(right, SURE + own, np.where(some, own, -own)) + TIE * np.log(records.prior)


@register("attack", "lomia", threat="attribute", access="labels", paper="mehnaz2022")
@record
class LOMIA(AttributeAttack):
    """As published with "case 1": the answer of the one right value stands. How common values are, where there is no
    record with one right value alone.
    """

    def score(self, key: jax.Array, records: Records) -> np.ndarray:
        _, right = _right(records)
        alone = right.sum(1) == 1
        others = np.broadcast_to(np.log(records.prior), right.shape)
        if alone.any():
            seen, values = described(records.data), right.argmax(1)
            weights = chosen_regression(seen[alone], values[alone], right.shape[1])
            others = log_shares(seen, weights)
        return np.where(alone[:, None], SURE * right, others)


def _right(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """(what the victim says int [N, V], whether that is the label bool [N, V]) with each value."""
    said = records.answers.argmax(-1)
    return said, said == records.data.y[:, None]
