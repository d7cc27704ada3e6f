"""Attacks that look at one answer of the victim: gap, loss_threshold, modified_entropy.

References: loss and the gap between right and wrong answers: Yeom et al., CSF 2018, arXiv:1709.01604. Modified entropy:
Song & Mittal, USENIX Security 2021, arXiv:2003.10595: -(1 - p_y) log p_y - sum over the other classes of
p_c log(1 - p_c).
"""

import jax
import numpy as np
from scipy.special import log_softmax

from robustbench_jax.registry import register
from robustbench_jax.suspects import MembershipAttack, Suspects, log_probability, margin
from robustbench_jax.types import record


@register("attack", "gap", threat="membership", access="labels", paper="yeom2018")
@record
class Gap(MembershipAttack):
    """Who is classified correctly is a member: the baseline that any attack has to beat."""

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        return (suspects.own.argmax(-1) == suspects.data.y).astype(float)


@register("attack", "loss_threshold", threat="membership", access="scores", paper="yeom2018")
@record
class LossThreshold(MembershipAttack):
    """Minus the cross-entropy."""

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        return margin(suspects.own, suspects.data.y)  # the same order as -loss, and does not round to 0


@register("attack", "modified_entropy", threat="membership", access="scores", paper="song2021")
@record
class ModifiedEntropy(MembershipAttack):
    """Minus the modified entropy."""

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        return -modified_entropy(suspects.own, suspects.data.y)


def modified_entropy(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[N] of logits [N, C]; finite, from the logits."""
    classes = logits.shape[-1]
    right = np.eye(classes, dtype=bool)[y]
    every = np.stack([margin(logits, np.full_like(y, c)) for c in range(classes)], -1)
    log_not = -np.logaddexp(0.0, every)  # log(1 - p_c)
    own = -np.exp(log_not[right]) * log_probability(logits, y)
    others = np.where(right, 0.0, -np.exp(log_softmax(logits, -1)) * log_not)
    return own + others.sum(-1)
