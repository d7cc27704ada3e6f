"""derandomized_smoothing(width): the class that most bands of an image get, each seen alone; a proof against patches.

Reference: Levine & Feizi, NeurIPS 2020, arXiv:2002.10733.
A patch of width m touches at most D = min(W, m + s - 1) of the W columns of width s, wherever it lies: they go round,
so that the first follows the last. For square blocks D is the product over both axes. Each band touched takes at most
one vote of class y and gives class j at most one, so that y stays ahead if n_y - n_j >= 2 D + [j < y] for all other j:
votes that tie go to the lower class, as in `argmax`.
Departs from the paper: what is removed is of one grey value, `fill`, while the paper doubles the channels to x, 1 - x
and 0, which takes a model of its own; with threshold = None a band gives its one vote to its likeliest class.
The model's answer to the same pixels is taken to be the same, in whatever batch.
Shapes: B images, D input shape, C classes, M bands.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import special

from robustbench_jax.ops import ablation
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.types import Certificate, Certifier, Classifier, UserError, record, static

AT_ONCE = 32  # images whose bands share batches
NAME = "derandomized_smoothing"


@register("certifier", NAME, paper="levine2020", budgets=("patch",))
@record
class DerandomizedSmoothing(Certifier):
    """width: of a band, in pixels; its kind is "column", "row" or "block". Models for it come of training with the
    defence of the same name, column_ablation(width). threshold: None, or a band votes for each class of at least this
    probability, as in the paper: for none, one or several.
    """

    width: int = static(default=4)
    kind: str = "column"
    fill: float = ablation.GREY
    threshold: float | None = None
    own_prediction = True

    def __post_init__(self):
        ablation.require_choice(NAME, self.kind, self.width, self.fill)
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise UserError(f"{NAME}: threshold = {self.threshold} must be above 0 and at most 1")

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
        """As Certifier says; a proof. prediction: the class of most votes, the lowest of those that tie.

        evidence: votes int[B], those of y; rival int[B], the most of another class, one more for classes below y. An
        image is certified iff votes - rival >= 2 D. Raises UserError for another budget, patches and bands that are
        larger than the images, and randomised models.
        """
        shape = x.shape[1:]
        patch = ablation.require_patch(NAME, model, budget, shape)
        ablation.require_narrow(NAME, self.kind, self.width, shape)
        if not len(x):
            return Certificate.empty(0)
        counts = []
        for start in range(0, len(x), AT_ONCE):
            counts.append(self.votes(model, x[start : start + AT_ONCE], runtime))
            report(min(start + AT_ONCE, len(x)))
        counts = np.concatenate(counts)
        own, rival = ahead(counts, np.asarray(y))
        nothing = np.full(len(x), np.nan, np.float32)
        return Certificate(
            certified=own - rival >= 2 * ablation.met(self.kind, self.width, patch, shape),
            prediction=counts.argmax(-1),
            margin=nothing,
            radius=nothing.copy(),
            counts={"forward_evaluations": len(x) * len(ablation.bands(self.kind, self.width, shape))},
            evidence={"votes": own, "rival": rival},
        )

    def votes(self, model: Classifier, x: np.ndarray, runtime: Runtime) -> np.ndarray:
        """int [B, C]: how many bands vote for each class."""
        choices = ablation.bands(self.kind, self.width, x.shape[1:])
        logits = ablation.answers(model, x, choices, self.fill, runtime, keep=True)
        if self.threshold is not None:
            return (special.softmax(logits, -1) >= self.threshold).sum(1)
        return (logits.argmax(-1)[..., None] == np.arange(logits.shape[-1])).sum(1)


def ahead(counts: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The votes of y [B] among counts [B, C], and the most that another class has, one more where it is below y."""
    classes = np.arange(counts.shape[1])
    against = counts + (classes < y[:, None])
    rival = np.where(classes == y[:, None], -1, against).max(-1)
    return np.take_along_axis(counts, y[:, None], 1)[:, 0], rival
