"""knockoff(): natural images are asked about, and a clone is trained on the answers.

Reference: Knockoff Nets, Orekondy et al., CVPR 2019, arXiv:1812.02766, with the random policy. With labels=True it is
CopycatCNN, Correia-Silva et al., IJCNN 2018, arXiv:1806.05476.
Shapes: N images of the pool, n queries, C classes, D = [H, W, C].
"""

import jax
import numpy as np

from robustbench_jax.attacks.extraction.cloning import Cloning, drawn
from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.thefts import Oracle
from robustbench_jax.types import Dataset, record


@register("attack", "knockoff", threat="extraction", access="scores", paper="orekondy2019", parts={"recipe": "recipe"})
@record
class Knockoff(Cloning):
    """Images at random, each once before any comes twice."""

    def collect(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> tuple[np.ndarray, np.ndarray]:
        x = pool.x[drawn(stream(key, "rows"), oracle.left, len(pool))]
        return x, oracle.ask(x)
