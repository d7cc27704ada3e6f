"""crown_ibp(eps): as `ibp`, its bounds mixed with linear ones while eps grows.

Reference: Zhang et al., ICLR 2020, arXiv:1906.06316. Margins are beta * CROWN-IBP + (1 - beta) * IBP; CROWN-IBP carries
the differences of logits back to the input through lines made of interval bounds. beta falls from 1 to `beta` as eps
grows. Linear bounds guide training while intervals are still loose. Certify with `ibp` where beta = 0, else with
`crown_ibp`.
Departs from the paper: beta falls with eps and not with the number of the step; the slope below an unstable ReLU is 0
or 1, whichever leaves the smaller area. What else departs is in certified.py.
Shapes: B batch, C classes.
"""

import jax

from robustbench_jax.defences.training.certified import CertifiedTraining, around, differences, require_least, worst
from robustbench_jax.ops.bounds import interval, linear
from robustbench_jax.ops.bounds.graph import read
from robustbench_jax.ops.bounds.regions import Region
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, record


@register("training", "crown_ibp", paper="zhang2020")
@record
class CrownIBP(CertifiedTraining):
    """kappa: as in `ibp`. beta: the weight of the linear bounds once eps is reached. A step costs about as many
    backward passes as there are classes.
    """

    kappa: float = 0.0
    beta: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        require_least("crown_ibp", "kappa", self.kappa, 1)
        require_least("crown_ibp", "beta", self.beta, 1)

    def objective(self, key, model, clean, x, logits, y, progress):
        share = self.grown(progress)
        region = around(clean, share * self.eps)
        found = worst(model, region, y, logits.shape[-1])
        kappa, beta = 1 - share * (1 - self.kappa), 1 - share * (1 - self.beta)
        mixed = jax.lax.cond(beta > 0, self.mixed, lambda *given: found.logits, model, region, y, found.logits, beta)
        loss = kappa * self.loss(logits, y) + (1 - kappa) * self.loss(mixed, y)
        return loss + self.besides(model, found, region, share)

    def mixed(self, model: Classifier, region: Region, y: jax.Array, by_intervals: jax.Array, beta: jax.Array):
        """[B, C]: worst-case logits of both kinds; not asked for, and not paid for, where beta is 0."""
        by_lines = worst_by_lines(model, region, y, by_intervals.shape[-1])
        return beta * by_lines + (1 - beta) * by_intervals


def worst_by_lines(model: Classifier, regions: Region, y: jax.Array, classes: int) -> jax.Array:
    """[B, C]: as `worst`'s logits, by linear bounds."""

    def one(region, y):
        graph = read(model, region.low)
        bounds = interval.propagate(graph, region.box)
        lines = linear.lines_of(graph, {k: bounds[k] for k in linear.needed(graph)}, region.box, {})
        return -linear.least(graph, graph.output, differences(y, classes), lines, region)

    return jax.vmap(one)(regions, y)
