"""calibrated(): how much larger the victim's margin is than that of models that were not trained on the image.

Reference: Watson et al., ICLR 2022, arXiv:2111.08440 (difficulty calibration).
"""

import jax
import numpy as np

from robustbench_jax.registry import register
from robustbench_jax.suspects import MembershipAttack, Suspects, margin
from robustbench_jax.types import record


@register("attack", "calibrated", threat="membership", access="scores", paper="watson2022")
@record
class Calibrated(MembershipAttack):
    """Margins are log p_y - log(1 - p_y)."""

    least = 2

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        y, outside = suspects.data.y, ~suspects.members
        theirs = np.sum(margin(suspects.theirs, y) * outside, 0) / outside.sum(0)
        return margin(suspects.own, y) - theirs
