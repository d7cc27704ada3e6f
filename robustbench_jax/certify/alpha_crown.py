"""alpha_crown: linear bounds whose slopes below unstable ReLUs are optimised, for every bound by itself.

Reference: Xu et al., ICLR 2021, arXiv:2011.13824 (alpha-CROWN).
Departs from the paper: the slopes of an intermediate bound serve that bound, layer after layer, and not the margin in
the end; what CROWN certifies already is not optimised.
"""

import numpy as np

from robustbench_jax.certify import bounding
from robustbench_jax.certify.bounded import BALLS, BoundCertifier
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("certifier", "alpha_crown", paper="xu2021", budgets=BALLS)
@record
class AlphaCrown(BoundCertifier):
    """steps: of ascent for the margins; inner_steps: for each bound of a layer before. Never below `crown`."""

    steps: int = 30
    inner_steps: int = 4

    def __post_init__(self):
        for name in ("steps", "inner_steps"):
            if isinstance(getattr(self, name), int) and getattr(self, name) < 0:
                raise UserError(f"alpha_crown: {name} = {getattr(self, name)} must be at least 0")

    def margins(self, model, regions, rows) -> np.ndarray:
        return bounding.in_turn(model, regions, rows, self.steps, self.inner_steps)[0]
