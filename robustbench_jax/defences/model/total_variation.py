"""total_variation(weight, dropped): some pixels are forgotten, and the image is redrawn as flat as the others allow.

References: Guo et al., ICLR 2018, arXiv:1711.00117; the total variation of Rudin, Osher & Fatemi, Physica D, 1992,
minimised by the primal-dual algorithm of Chambolle & Pock, Journal of Mathematical Imaging and Vision, 2011.
With m = 1 where a value is kept, z minimises |m (z - x)|^2 / 2 + weight * TV(z); TV is the sum, over pixels and
channels, of the length of (difference down, difference to the right).
Departs from the paper: the distance is squared, TV has one length for each pixel instead of one for each row and
column, and the solver takes a fixed number of steps, so that gradients pass it. Hence `weight` is another one than
theirs (0.03).
Shapes: H height, W width, C channels. One image.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, require_positive, static

STEP = 8**-0.5  # 1 / the largest possible norm of the differences: the most that the product of both steps may be, root
REACH = 0.3  # how far a value has to go, where the other variable goes as far as the weight: steps in that proportion


@register("model_defence", "total_variation", paper="guo2018")
@record
class TotalVariation(Preprocessing):
    """weight: of the total variation, on the scale of [0, 1]. dropped: the probability with which each value of the
    image is forgotten (0: a deterministic defence). steps: of the solver.
    """

    weight: float = 0.03
    dropped: float = 0.5
    steps: int = static(default=30)

    def __post_init__(self):
        require_positive("total_variation", weight=self.weight, steps=self.steps)
        if isinstance(self.dropped, int | float) and not 0 <= self.dropped < 1:
            raise UserError(f"total_variation: dropped = {self.dropped} must be at least 0 and below 1")

    @property
    def stochastic(self) -> bool:
        return self.dropped > 0

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        kept = jnp.ones_like(x) if key is None else jax.random.bernoulli(key, 1 - self.dropped, x.shape) * 1.0
        mean = jnp.sum(kept * x) / jnp.maximum(jnp.sum(kept), 1.0)
        first = kept * x + (1 - kept) * mean
        far, near = STEP * REACH / self.weight, STEP * self.weight / REACH

        def step(state, _):
            z, ahead, slopes = state
            slopes = _shortened(slopes + near * _differences(ahead), self.weight)
            new = (z + far * (_divergence(slopes) + kept * x)) / (1 + far * kept)
            return (new, 2 * new - z, slopes), None

        (z, _, _), _ = jax.lax.scan(step, (first, first, _differences(0 * x)), length=self.steps)
        return jnp.clip(z, 0.0, 1.0)


def _differences(z: jax.Array) -> jax.Array:
    """[2, H, W, C]: to the pixel below and to the right; 0 at the border."""
    down = jnp.diff(z, axis=0, append=z[-1:])
    return jnp.stack([down, jnp.diff(z, axis=1, append=z[:, -1:])])


def _divergence(slopes: jax.Array) -> jax.Array:
    """Minus the transpose of _differences."""
    down, right = slopes[0, :-1], slopes[1, :, :-1]
    down = jnp.diff(jnp.pad(down, ((1, 1), (0, 0), (0, 0))), axis=0)
    return down + jnp.diff(jnp.pad(right, ((0, 0), (1, 1), (0, 0))), axis=1)


def _shortened(slopes: jax.Array, most: jax.Array) -> jax.Array:
    return slopes / jnp.sqrt(jnp.maximum(1.0, jnp.sum((slopes / most) ** 2, axis=0)))
