"""Attacks that weigh how common a value is by how well the model does with it: map_estimate, confusion_map,
loss_density.

References: Fredrikson et al., USENIX Security 2014: the value with the largest p(value) times the probability that the
model's answer is right, from its confidence or from its confusion matrix. Yeom et al., CSF 2018, arXiv:1709.01604:
p(value) times the density of the model's training errors at the error that the value makes; theirs are normal, those of
a cross-entropy are taken for exponential, with the mean training loss, which whoever trains a model tells.
prior="record" is no attack of theirs: p(value) is then p(value | rest of the record), from complete records.
Shapes: N records, V values, C classes.
"""

import jax
import numpy as np

from robustbench_jax.attributes import FLOOR, AttributeAttack, Records, impute
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record

PRIORS = ("marginal", "record")
LEAST = 1e-6  # of the mean loss that errors are measured in


@register("attack", "map_estimate", threat="attribute", access="scores", paper="fredrikson2014")
@record
class MapEstimate(AttributeAttack):
    """log p(value) + log p(label | record with the value). prior: "marginal" or "record"."""

    prior: str = "marginal"

    def __post_init__(self):
        _require_prior("map_estimate", self.prior)

    def score(self, key: jax.Array, records: Records) -> np.ndarray:
        return _prior(records, self.prior) + records.evidence


@register("attack", "confusion_map", threat="attribute", access="labels", paper="fredrikson2014")
@record
class ConfusionMap(AttributeAttack):
    """log p(value) + log p(label | the model's answer to the record with the value), counted on complete records."""

    def score(self, key: jax.Array, records: Records) -> np.ndarray:
        data = records.complete
        said = records.victim.ask(data.x).argmax(-1)
        counts = np.full((len(data.classes),) * 2, FLOOR)
        np.add.at(counts, (data.y, said), 1)
        shares = counts / counts.sum(0)  # of labels, for each answer
        return np.log(records.prior) + np.log(shares[records.data.y[:, None], records.answers.argmax(-1)])


@register("attack", "loss_density", threat="attribute", access="scores", paper="yeom2018")
@record
class LossDensity(AttributeAttack):
    """log p(value) - loss with the value / mean training loss. prior: "marginal" or "record"."""

    prior: str = "marginal"

    def __post_init__(self):
        _require_prior("loss_density", self.prior)

    def score(self, key: jax.Array, records: Records) -> np.ndarray:
        return _prior(records, self.prior) + records.evidence / max(records.training_loss, LEAST)


def _prior(records: Records, kind: str) -> np.ndarray:
    """[V] or [N, V]."""
    return np.log(records.prior) if kind == "marginal" else impute(records, label=False)


def _require_prior(owner: str, kind: str) -> None:
    if kind not in PRIORS:
        raise UserError(f"{owner}: prior = {kind!r}; there are: {', '.join(PRIORS)}")
