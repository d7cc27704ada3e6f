"""Weather: snow, frost, fog, brightness.

Reference: Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261.
Departs from the paper: its frost is one of five photographs of frozen windows, added to the image; here the texture is
drawn anew for each image, with the mean colour, the contrast and the coarse and fine shares of one of those
photographs, and added with the paper's weights.
Shapes: H height, W width, C channels. Written for one image [H, W, C] in [0, 1].
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.corruption.blur import zoomed
from robustbench_jax.attacks.corruption.corruption import Corruption, power_of_two, unit, whole_levels
from robustbench_jax.ops.colours import brighten, luminance, tint
from robustbench_jax.ops.filters import gaussian, plasma, streak
from robustbench_jax.registry import register
from robustbench_jax.types import record

FINEST = 0.003  # of the image's side: the smoothness of ice
# Of each photograph: mean red, green, blue; standard deviation in a crop before clipping; the share of patches in it.
PANES = np.array(
    [
        [0.30, 0.58, 0.65, 0.060, 0.5],
        [0.79, 0.80, 0.83, 0.085, 0.4],
        [0.79, 0.80, 0.83, 0.085, 0.4],
        [0.57, 0.62, 0.68, 0.110, 0.2],
        [0.40, 0.45, 0.49, 0.150, 0.4],
    ],
    np.float32,
)


@register("attack", "snow", threat="corruption", access="none", paper="hendrycks2019")
@record
class Snow(Corruption):
    """Flakes, blurred as they fall, and their reflection, over an image that is whitened.

    Parameters: mean and standard deviation of the noise that flakes come from, its zoom, the threshold above which it
    is a flake, radius and sigma of the motion blur, and how much of the image's colour is left.
    """

    small = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    middle = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    )
    large = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        mean, std, _, threshold, radius, sigma, colour = self.chosen(x, severity)
        where, falling = jax.random.split(key)
        noise = mean + std * jax.random.normal(where, (*x.shape[:2], 1))
        noise = zoomed(noise, tuple(self.table(x)[:, 2]), severity)
        flakes = whole_levels(unit(jnp.where(noise < threshold, 0.0, noise)))
        degrees = jax.random.uniform(falling, minval=-135.0, maxval=-45.0)
        flakes = streak(flakes, radius, sigma, degrees, most=int(self.table(x)[:, 4].max()))
        flakes = whole_levels(flakes)
        whitened = colour * x + (1 - colour) * jnp.maximum(x, luminance(x) * 1.5 + 0.5)
        return unit(whitened + flakes + jnp.rot90(flakes, 2))


@register("attack", "frost", threat="corruption", access="none", paper="hendrycks2019")
@record
class Frost(Corruption):
    """Ice on a window: the weights of the image and of the ice."""

    small = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    middle = ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55))
    large = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        image, ice = self.chosen(x, severity)
        return unit(image * x + ice * _ice(key, x.shape))


@register("attack", "fog", threat="corruption", access="none", paper="hendrycks2019")
@record
class Fog(Corruption):
    """A plasma fractal, added before the image is scaled back: how much, and how fast its detail decays."""

    small = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
    middle = ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75))
    large = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        amount, decay = self.chosen(x, severity)
        fog = plasma(key, power_of_two(max(x.shape[:2])), decay)[: x.shape[0], : x.shape[1], None]
        brightest = jnp.max(x)
        return unit((x + amount * fog) * brightest / (brightest + amount))


@register("attack", "brightness", threat="corruption", access="none", paper="hendrycks2019")
@record
class Brightness(Corruption):
    """Adds the parameter to the value of HSV: to grey levels where there is one channel."""

    small = (0.05, 0.1, 0.15, 0.2, 0.3)
    middle = (0.1, 0.2, 0.3, 0.4, 0.5)
    large = (0.1, 0.2, 0.3, 0.4, 0.5)

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        return brighten(x, self.chosen(x, severity))


def _ice(key: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """[H, W, C]: crystals that grow in three directions, on patches, in the colour of one of the photographs."""
    height, width, channels = shape
    which, seeds, patches = jax.random.split(key, 3)
    pane, turn = jax.random.uniform(which, (2,))
    *rgb, contrast, coarse = jnp.asarray(PANES)[(pane * len(PANES)).astype(jnp.int32)]
    side, length = max(height, width), min(height, width) // 4
    points = jax.random.normal(seeds, (3, height, width, 1)) ** 3
    turns = 60.0 * turn + np.array([0.0, 60.0, 120.0])
    needles = jax.vmap(partial(streak, radius=length, sigma=length / 2, most=length))(points, degrees=turns)
    crystals = gaussian(jnp.max(needles, 0), FINEST * side, most=FINEST * side)
    uneven = plasma(patches, power_of_two(side), 1.5)[:height, :width, None]
    grain = jnp.sqrt(1 - coarse**2) * _standard(crystals) + coarse * _standard(uneven)
    return unit(tint(jnp.stack(rgb), channels) + contrast * grain)


def _standard(field: jax.Array) -> jax.Array:
    """Of mean 0 and standard deviation 1."""
    return (field - jnp.mean(field)) / jnp.maximum(jnp.std(field), 1e-6)
