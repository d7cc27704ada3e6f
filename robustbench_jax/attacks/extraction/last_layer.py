"""last_layer(): the width of the layer before the logits, and what the last layer spans, from answers alone.

Reference: Carlini et al., ICML 2024, arXiv:2403.06634: logits of many inputs lie in a space of as many dimensions as
the last layer has inputs; singular values fall off there. Here the logits are centred over the classes, since
probabilities do not show their mean, which takes one dimension where the layer is wider than C - 1.
Shapes: n questions, C classes, h inputs of the last layer.
The clone is trained as knockoff's; what is added are the numbers. Needs a last layer narrower than C - 1 to find it.
"""

import jax
import numpy as np

from robustbench_jax.attacks.extraction.cloning import Cloning, drawn
from robustbench_jax.attacks.extraction.equation_solving import centred
from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.thefts import Oracle, Stolen
from robustbench_jax.types import Dataset, record


@register("attack", "last_layer", threat="extraction", access="scores", paper="carlini2024", parts={"recipe": "recipe"})
@record
class LastLayer(Cloning):
    """As knockoff; says how wide the victim's last layer is (`width_found`)."""

    def steal(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> Stolen:
        own = self.thiefs(key, oracle, pool)
        x = own.x[drawn(stream(key, "rows"), oracle.left, len(own))]
        answers = oracle.ask(x)
        clone = self.clone(stream(key, "clone"), x, answers, pool)
        return Stolen(clone, {"width_found": float(width(centred(answers)))})


def width(logits: np.ndarray) -> int:
    """How many dimensions centred logits [n, C] have about their mean: where the logarithms of the singular values fall
    furthest, the one that centring makes zero left out.
    """
    values = np.linalg.svd(logits - logits.mean(0), compute_uv=False)[: logits.shape[1] - 1]
    floor = values[0] * 1e-12
    falls = -np.diff(np.log(np.maximum(values, floor)))
    sharp = int(np.argmax(falls)) if len(falls) else 0
    return sharp + 1 if len(falls) and falls[sharp] > np.log(100) else len(values)
