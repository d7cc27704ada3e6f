"""crown: linear bounds of every layer, each made with the linear bounds of those before it.

Reference: Zhang et al., NeurIPS 2018, arXiv:1811.00866; for graphs Xu et al., NeurIPS 2020, arXiv:2002.12920. Below an
unstable ReLU the line is that of slope 1 or 0, whichever leaves the smaller area; intermediate bounds are CROWN's own
where an interval does not decide the sign.
"""

import numpy as np

from robustbench_jax.certify import bounding
from robustbench_jax.certify.bounded import BALLS, BoundCertifier
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("certifier", "crown", paper="zhang2018crown", budgets=BALLS)
@record
class Crown(BoundCertifier):
    """One backward pass for each entry of a layer whose sign intervals leave open; never below `ibp`."""

    def margins(self, model, regions, rows) -> np.ndarray:
        known = bounding.first_layers(model, regions)
        by_intervals = bounding.interval_margins(model, regions, rows, known)
        known = bounding.crown(model, regions, known)
        return np.fmax(by_intervals, bounding.linear_margins(model, regions, rows, known))
