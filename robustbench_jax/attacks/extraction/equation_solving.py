"""equation_solving(): a linear model is read off its own probabilities, by as many questions as it has inputs.

Reference: Tramer et al., USENIX Security 2016, arXiv:1609.02943: log p_c - log p_0 is linear in the image, so that one
question at black and one at each pixel gives weights and biases up to what no probability depends on.
Shapes: n = D + 1 questions, D pixels, C classes.
A victim that is not linear is answered with the linear model that agrees with it on these questions.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.registry import register
from robustbench_jax.thefts import ExtractionAttack, Oracle, Stolen
from robustbench_jax.types import Classifier, Dataset, UserError, record

LEAST = 1e-300  # a probability below it is no equation


@register("attack", "equation_solving", threat="extraction", access="scores", paper="tramer2016")
@record
class EquationSolving(ExtractionAttack):
    """Needs one query more than an image has values."""

    def require(self, oracle: Oracle, shape: tuple[int, ...], classes: int) -> None:
        need = int(np.prod(shape)) + 1
        if oracle.budget < need:
            raise UserError(f"queries({oracle.budget}): 'equation_solving' needs {need} for images of {list(shape)}")

    def steal(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> Stolen:
        shape = pool.x.shape[1:]
        size = int(np.prod(shape))
        x = np.concatenate([np.zeros((1, size), np.uint8), 255 * np.eye(size, dtype=np.uint8)]).reshape(-1, *shape)
        scores = centred(oracle.ask(x))
        if not np.isfinite(scores).all():
            raise UserError("equation_solving: the victim gave no probabilities to some questions")
        params = {"kernel": jnp.asarray(scores[1:] - scores[0], jnp.float32), "bias": jnp.asarray(scores[0], "f4")}
        return Stolen(Classifier(linear, params))


def centred(answers: np.ndarray) -> np.ndarray:
    """log p less its mean over classes: logits, up to what probabilities [n, C] do not show."""
    logs = np.log(np.maximum(answers, LEAST))
    return logs - logs.mean(-1, keepdims=True)


def linear(params: dict, x: jax.Array) -> jax.Array:
    """Logits [C] of an image: kernel [D, C], bias [C]."""
    return x.reshape(-1) @ params["kernel"] + params["bias"]
