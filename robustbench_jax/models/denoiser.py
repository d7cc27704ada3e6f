"""denoiser_cnn: a small network from images to images that removes Gaussian noise, and how it is fitted.

Reference: DnCNN, Zhang et al., IEEE Transactions on Image Processing 26(7), 2017, arXiv:1608.03981: convolutions with
ReLU that predict the noise, which is taken from the image.
Departs from the paper: fewer layers (5 for 17) and channels, no batch normalisation; whole images are fitted, not
patches of larger ones.
Shapes: B batch, D image shape [H, W, C].
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from robustbench_jax.keys import stream
from robustbench_jax.models.blocks import Conv, require_image
from robustbench_jax.models.net import Net
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, require_positive

ADAM = optax.scale_by_adam()
RATE = 2e-3  # at first; it falls to 0 along half a cosine


@register("model", "denoiser_cnn", paper="zhang2017", given=("shape", "classes", "rngs"), gives_images=True)
class DenoiserCNN(nnx.Module):
    """An image of the shape of its input; untrained, its input itself. width: channels inside; depth: convolutions."""

    def __init__(self, width: int = 32, depth: int = 5, *, shape, classes, rngs):
        require_image("denoiser_cnn", shape, 1)
        require_positive("denoiser_cnn", width=width)
        if depth < 2:
            raise UserError(f"denoiser_cnn: depth = {depth} must be at least 2")
        channels = (shape[-1], *(depth - 1) * (width,))
        self.layers = nnx.List([Conv(a, b, 3, rngs=rngs) for a, b in zip(channels, channels[1:], strict=False)])
        self.last = Conv(width, shape[-1], 3, rngs=rngs)
        self.last.kernel[...] = jnp.zeros_like(self.last.kernel[...])

    def __call__(self, x: jax.Array) -> jax.Array:
        noise = x
        for layer in self.layers:
            noise = jax.nn.relu(layer(noise))
        return x - self.last(noise)


def fit_denoiser(
    key: jax.Array, data: Dataset, *, sigma: float, steps: int = 500, batch: int = 64, width: int = 32
) -> Classifier:
    """A `denoiser_cnn` that was fitted to `data` with Gaussian noise of `sigma`, on the scale of [0, 1]: from an image
    [D] to an image [D]. The key is consumed; the same key and data give the same weights.

    Minimises the mean squared error over `steps` batches of images drawn at random. Raises UserError where it is no
    longer finite.
    """
    require_positive("fit_denoiser", steps=steps, batch=batch)
    rngs = nnx.Rngs(params=stream(key, "params"))
    net, params = Net.split(DenoiserCNN(width, shape=data.x.shape[1:], classes=0, rngs=rngs))
    state, loss = ADAM.init(params), 0.0
    rows = np.asarray(jax.random.randint(stream(key, "rows"), (steps, batch), 0, len(data)))
    for step in range(steps):
        noisy = jax.random.fold_in(stream(key, "noise"), step)
        params, state, loss = _step(noisy, params, state, data.x[rows[step]], sigma, step / steps, net=net)
    if not np.isfinite(float(loss)):
        raise UserError(f"the loss of the denoiser is {float(loss)} after {steps} steps of sigma = {sigma}")
    return Classifier(net, params)


@partial(jax.jit, static_argnames="net")
def _step(key, params, state, x, sigma, progress, *, net):
    """One step of Adam; x uint8 [B, D]."""
    x = as_unit(x)

    def loss(params):
        return jnp.mean((net(params, x + sigma * jax.random.normal(key, x.shape)) - x) ** 2)

    value, gradients = jax.value_and_grad(loss)(params)
    changes, state = ADAM.update(gradients, state)
    rate = RATE * (1 + jnp.cos(jnp.pi * progress)) / 2
    return jax.tree.map(lambda p, change: p - rate * change, params, changes), state, value
