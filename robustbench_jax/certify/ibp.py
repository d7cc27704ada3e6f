"""ibp: interval bound propagation, the last layer folded into the margins.

Reference: Gowal et al., 2018, arXiv:1810.12715. In an L2 or L1 ball the first layer's intervals are those of the ball,
by the dual norms of its rows, and not of the box around it.
"""

import jax
import numpy as np

from robustbench_jax.certify import bounding
from robustbench_jax.certify.bounded import BALLS, BoundCertifier
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("certifier", "ibp", paper="gowal2018", budgets=BALLS)
@record
class IBP(BoundCertifier):
    """The cost of two forward passes; loose on networks that were not trained for it."""

    def margins(self, model, regions, rows) -> np.ndarray:
        known = {} if regions.norm == "linf" else bounding.first_layers(model, regions)
        return np.asarray(bounding.interval_margins(model, regions, jax.numpy.asarray(rows), known))
