"""ti_fgsm: momentum over blurred gradients, which are those of the loss averaged over shifted images.

Reference: Dong et al., CVPR 2019, arXiv:1904.02884 (TI-FGSM with momentum; a Gaussian kernel of 15 x 15, whose edge
lies 3 standard deviations out).
Shapes: H, W, C image. Written for one example; ops/drive.py adds the batch.
Departs from the paper: an example whose iterate is adversarial stops there (under transfer it takes all its steps).
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.mi_fgsm import Momentum, State
from robustbench_jax.ops import gradients
from robustbench_jax.registry import register
from robustbench_jax.types import Problem, UserError, record

BALLS = ("linf", "l2", "l1", "l0")
MOST = 256  # the longest reach of a kernel


@register("attack", "ti_fgsm", threat="evasion", access="gradients", paper="dong2019", budgets=BALLS)
@record
class TIFGSM(Momentum):
    """kernel: side of the blur in pixels, odd; 1 is mi_fgsm. deviations: standard deviations from centre to edge."""

    steps: int = 10
    decay: float = 1.0
    kernel: int = 15
    deviations: float = 3.0
    loss: str = "cross_entropy"

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.kernel, int) and (self.kernel < 1 or self.kernel % 2 == 0):
            raise UserError(f"ti_fgsm: kernel = {self.kernel} must be an odd number of at least 1")

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        gradient, logits = gradients.ascent(problem, self.loss_function, state.x_adv)
        blurred = blur(gradient, self.kernel, self.deviations)
        return self.onwards(problem, state, blurred, done=problem.adversarial(logits))


def blur(image: jax.Array, kernel: int | jax.Array, deviations: float | jax.Array) -> jax.Array:
    """[H, W, C] under a Gaussian of kernel x kernel pixels and sum 1, zeros outside the image."""
    reach = (kernel - 1) / 2
    rows, columns = (_band(size, reach, deviations) for size in image.shape[:2])
    return jnp.einsum("ia,jb,abc->ijc", rows, columns, image, precision=jax.lax.Precision.HIGHEST)


def _band(size: int, reach: jax.Array, deviations: jax.Array) -> jax.Array:
    """[size, size]: the kernel along one axis, moved over the lines. The sum is over the whole kernel."""

    def weight(offset):
        at = jnp.abs(offset)
        return jnp.where(at <= reach, jnp.exp(-0.5 * (deviations * at / jnp.maximum(reach, 1)) ** 2), 0.0)

    index = jnp.arange(size)
    return weight(index[:, None] - index) / jnp.sum(weight(jnp.arange(-MOST, MOST + 1)))
