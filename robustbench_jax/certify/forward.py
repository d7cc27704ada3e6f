"""forward: zonotopes, carried once from the input to the margins.

Reference: Singh et al., NeurIPS 2018, "Fast and Effective Robustness Certification" (DeepZ).
Departs from the paper: each operation keeps its `errors` largest error terms, the others go into a box. Measured on
fashion_mnist/linf/mtl_ibp at Linf 0.1 (32 images): mean margins of 0.013, 0.022, 0.026 with 0, 64, 256 terms and 0.034
with all of them, which took some four times as long; ibp has -0.298, crown_ibp 0.064, crown 0.075.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.certify import bounding
from robustbench_jax.certify.bounded import BALLS, BoundCertifier
from robustbench_jax.ops.bounds import linear, zonotope
from robustbench_jax.ops.bounds.graph import read
from robustbench_jax.ops.bounds.regions import Region
from robustbench_jax.ops.runtime import on_cpu
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, UserError, record


@register("certifier", "forward", paper="singh2018", budgets=BALLS)
@record
class Forward(BoundCertifier):
    """errors: how many error terms each operation keeps. Never below `ibp`; terms as many as the image has entries, at
    least, so it suits small inputs.
    """

    errors: int = 64

    def __post_init__(self):
        if isinstance(self.errors, int) and self.errors < 0:
            raise UserError(f"forward: errors = {self.errors} must be at least 0")

    def margins(self, model, regions, rows) -> np.ndarray:
        width = images_at_once(bounding.structure(model, regions.low.shape[1:]), self.errors)
        parts = []
        for at in range(0, len(rows), width):
            part = jax.tree.map(lambda leaf: leaf[at : at + width], (regions, rows))  # noqa: B023
            parts.append(np.asarray(_margins(model, *part, self.errors)))
        return np.concatenate(parts)


def images_at_once(form: bounding.Structure, errors: int) -> int:
    """A power of two: so many that the terms of the widest node fit bounding.MEMORY; one image, however large it is."""
    terms = int(np.prod(form.shapes[0])) + sum(min(errors, int(np.prod(form.shapes[k]))) for k in form.needed)
    fits = bounding.MEMORY[not on_cpu()] // (4 * form.widest * terms)
    return 1 << max(int(fits), 1).bit_length() - 1


@partial(jax.jit, static_argnames="errors")
def _margins(model: Classifier, regions: Region, rows: jax.Array, errors: int) -> jax.Array:
    """[B, R]: lower bounds of the rows [B, R, C] of the logits."""

    def one(region, rows):
        graph = read(model, region.low)
        forms, bounds = zonotope.propagate(graph, region, errors)
        found = zonotope.least(graph, rows, forms, region)
        return jnp.fmax(linear.at_inputs(graph, rows, bounds, region), found)

    if len(rows) == 1:  # a batch of one takes twice as long on CPU
        return one(*jax.tree.map(lambda leaf: leaf[0], (regions, rows)))[None]
    return jax.vmap(one)(regions, rows)
