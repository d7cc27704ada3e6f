"""multi_run_audit(images, copies): many trainings with one canary and many without it, told apart by its margin.

References: Jagielski, Ullman & Oprea, NeurIPS 2020, arXiv:2006.07709; Nasr et al., IEEE S&P 2021, arXiv:2101.04535. The
canary is an image of black and white pixels drawn by coins, with a label drawn by key: nothing else teaches it. A
promise of privacy is for any data, so the auditor takes as few images as show most.
Shapes: n trainings on each side.
"""

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.suspects import Victim, margin
from robustbench_jax.types import record, require_positive, static


@register("attack", "multi_run_audit", threat="repeated_audit", access="scores", paper="jagielski2020audit")
@record
class MultiRunAudit:
    """images: of the training images, that the canary is added to; copies: of the canary, so many neighbours apart."""

    images: int = static(default=1000)
    copies: int = static(default=1)

    def __post_init__(self):
        require_positive("multi_run_audit", images=self.images, copies=self.copies)

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("runs",)

    def plant(self, key: jax.Array, shape: tuple[int, ...], classes: int) -> tuple[np.ndarray, int]:
        """The canary, uint8 [D], and its label."""
        pixels = jax.random.bernoulli(stream(key, "pixels"), 0.5, shape)
        return np.where(pixels, 255, 0).astype(np.uint8), int(jax.random.randint(stream(key, "label"), (), 0, classes))

    def score(self, victim: Victim, x: np.ndarray, y: int) -> float:
        """Larger for models that look as if they were trained on the canary."""
        return float(margin(victim.ask(x[None]), np.array([y]))[0])

    def threshold(self, without: np.ndarray, with_it: np.ndarray) -> float:
        """The one above which a model counts as trained on it: of the fewest errors among scores [n] of each side,
        in the middle of those.
        """
        at = np.sort(np.concatenate([without, with_it]))
        between = np.concatenate([at[:1] - 1, (at[1:] + at[:-1]) / 2, at[-1:] + 1])
        errors = [np.sum(without > t) + np.sum(with_it <= t) for t in between]
        best = np.flatnonzero(np.array(errors) == min(errors))
        return float(between[best[len(best) // 2]])
