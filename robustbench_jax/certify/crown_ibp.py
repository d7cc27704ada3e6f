"""crown_ibp: linear bounds of the margins, made with interval bounds of everything before them.

Reference: Zhang et al., ICLR 2020, arXiv:1906.06316.
"""

import numpy as np

from robustbench_jax.certify import bounding
from robustbench_jax.certify.bounded import BALLS, BoundCertifier
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("certifier", "crown_ibp", paper="zhang2020", budgets=BALLS)
@record
class CrownIBP(BoundCertifier):
    """As many backward passes as classes; never below `ibp`."""

    def margins(self, model, regions, rows) -> np.ndarray:
        known = bounding.first_layers(model, regions)
        by_intervals = bounding.interval_margins(model, regions, rows, known)
        return np.fmax(by_intervals, bounding.linear_margins(model, regions, rows, known))
