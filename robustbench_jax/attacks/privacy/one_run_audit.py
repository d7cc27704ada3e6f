"""one_run_audit(share, bound): canaries with wrong labels, and a guess for those of which the model is surest.

Reference: Steinke, Nasr & Jagielski, NeurIPS 2023, arXiv:2305.08846, with the black-box canaries that are hardest to
learn from anything but themselves: images with labels drawn evenly from the wrong ones. The score is the margin of the
label that was planted. What the guesses show is told by the bound of that paper ("binomial") or by the f-DP one of
Mahloujifar, Melis & Chaudhuri, 2024, arXiv:2410.22235 ("fdp"), chosen beforehand.
Shapes: m canaries.
"""

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.suspects import Victim, margin
from robustbench_jax.types import Dataset, UserError, record

BOUNDS = ("binomial", "fdp")


@register("attack", "one_run_audit", threat="audit", access="scores", paper="steinke2023", late=("bound",))
@record
class OneRunAudit:
    """share: of the canaries that are guessed to be in, and as many to be out, those of the largest and of the smallest
    scores; fixed beforehand, as is bound, "binomial" or "fdp".
    """

    share: float = 0.1
    bound: str = "binomial"

    def __post_init__(self):
        name = self.registered[1]
        if isinstance(self.share, int | float) and not 0 < self.share <= 0.5:
            raise UserError(f"{name}: share = {self.share} must be above 0 and at most 0.5")
        if self.bound not in BOUNDS:
            raise UserError(f"{name}: bound = {self.bound!r}; there are: {', '.join(BOUNDS)}")

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("canaries",)

    def plant(self, key: jax.Array, x: np.ndarray, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [m, D] and labels [m] of canaries, made of training images that are then left out."""
        away = jax.random.randint(stream(key, "labels"), (len(y),), 1, classes)
        return x, ((y + np.asarray(away)) % classes).astype(np.int32)

    def score(self, key: jax.Array, victim: Victim, canaries: Dataset) -> np.ndarray:
        """float [m], larger for canaries that look as if they were in."""
        return margin(victim.ask(canaries.x), canaries.y)

    def guesses(self, scores: np.ndarray) -> np.ndarray:
        """int [m]: 1 for guessed in, -1 for guessed out, 0 for no guess."""
        count = max(1, int(self.share * len(scores)))
        order, said = np.argsort(scores, kind="stable"), np.zeros(len(scores), int)
        said[order[-count:]], said[order[:count]] = 1, -1
        return said
