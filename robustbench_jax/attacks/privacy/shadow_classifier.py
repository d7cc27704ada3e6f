"""shadow_classifier(): a classifier of answers, trained on those of shadow models, whose training images are known.

Reference: Shokri et al., IEEE S&P 2017, arXiv:1610.05820. An attack model for each class gets the answer and says
whether the image was a member.
Departs from the paper: the attack model is a logistic regression on the margin, the log-probability, the largest
logarithms of probabilities in order, and whether the answer is right; one for all classes, each with its own constant.
Shapes: N images, M shadow models, C classes.
"""

import jax
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from robustbench_jax.registry import register
from robustbench_jax.suspects import MembershipAttack, Suspects, log_probability, margin
from robustbench_jax.types import record, require_positive

SHOWN = 3  # of the largest log-probabilities
LEAST = -30.0  # of a log-probability


@register("attack", "shadow_classifier", threat="membership", access="scores", paper="shokri2017")
@record
class ShadowClassifier(MembershipAttack):
    """ridge: of the logistic regression, on standardised features."""

    ridge: float = 1e-3
    least = 2

    def __post_init__(self):
        require_positive("shadow_classifier", ridge=self.ridge)

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        y = suspects.data.y
        seen = np.concatenate([answers(each, y) for each in suspects.theirs])
        middle, scale = seen.mean(0), np.maximum(seen.std(0), 1e-9)
        weights = logistic((seen - middle) / scale, suspects.members.ravel(), self.ridge)
        return (answers(suspects.own, y) - middle) / scale @ weights[:-1] + weights[-1]


def answers(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Features [N, F] of logits [N, C]."""
    logs = np.maximum(log_softmax(logits, -1), LEAST)
    top = -np.sort(-logs, -1)[:, : min(SHOWN, logits.shape[-1])]
    right = (logits.argmax(-1) == y)[:, None]
    own = np.clip(margin(logits, y), LEAST, -LEAST)[:, None]
    return np.concatenate(
        [own, np.maximum(log_probability(logits, y), LEAST)[:, None], top, right, _class(y, logits)], 1
    )


def _class(y: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return np.eye(logits.shape[-1])[y]


def logistic(x: np.ndarray, labels: np.ndarray, ridge: float) -> np.ndarray:
    """Weights [F + 1], the constant last, of the regression of labels bool [N] on x [N, F]."""
    x, signs = np.concatenate([x, np.ones((len(x), 1))], 1), np.where(labels, 1.0, -1.0)

    def value(w):
        along = signs * (x @ w)
        slope = -(signs * expit(-along)) @ x / len(x) + ridge * w
        return np.mean(np.logaddexp(0.0, -along)) + ridge / 2 * w @ w, slope

    return minimize(value, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
