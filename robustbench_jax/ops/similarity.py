"""How alike two images are: PSNR, SSIM and total variation.

Reference: structural similarity: Wang et al., IEEE Transactions on Image Processing 2004, with its Gaussian window of
11 pixels and standard deviation 1.5, only where it lies inside the image; smaller images have a smaller window.
Shapes: D = [H, W, C], pixels from 0 to 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
MOST = 100.0  # dB, of images that are equal


def psnr(x: jax.Array, y: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, at most MOST."""
    return jnp.minimum(-10 * jnp.log10(jnp.maximum(jnp.mean((x - y) ** 2), 1e-12)), MOST)


def ssim(x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean over pixels and channels; 1 for equal images."""
    side = min(WINDOW, *x.shape[:2])
    at = np.arange(side) - (side - 1) / 2
    taps = np.exp(-(at**2) / (2 * SIGMA**2))
    taps = jnp.asarray(taps / taps.sum(), jnp.float32)

    def local(image):
        rows = sum(t * image[i : image.shape[0] - side + 1 + i] for i, t in enumerate(taps))
        return sum(t * rows[:, i : rows.shape[1] - side + 1 + i] for i, t in enumerate(taps))

    a, b = local(x), local(y)
    var_a, var_b, both = local(x * x) - a * a, local(y * y) - b * b, local(x * y) - a * b
    alike = (2 * a * b + C1) * (2 * both + C2) / ((a * a + b * b + C1) * (var_a + var_b + C2))
    return jnp.mean(alike)


def total_variation(x: jax.Array) -> jax.Array:
    """The mean absolute difference of neighbouring pixels, anisotropic."""
    return jnp.mean(jnp.abs(jnp.diff(x, axis=0))) + jnp.mean(jnp.abs(jnp.diff(x, axis=1)))
