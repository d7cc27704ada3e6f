"""Smoothing noise, and how a model votes on noisy copies of images.

Noise has standard deviation sigma in every entry, on the scale of [0, 1], and is not clipped: "gaussian", or "uniform"
on [-lambda, lambda] with lambda = sqrt(3) sigma, as in Yang et al., ICML 2020, arXiv:2002.08118.
Shapes: B images, D input shape, C classes, R rows of one batch: each row is a noisy copy of one of the images.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.keys import per_example, stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import nearest
from robustbench_jax.types import UserError

NOISES = ("gaussian", "uniform")


def require_noise(owner: str, noise: str) -> None:
    """UserError for a kind of noise that there is not."""
    if noise not in NOISES:
        raise UserError(f"{owner}: noise = {noise!r}{nearest(noise, NOISES)}")


def draw(noise: str, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Noise [D] of standard deviation 1."""
    if noise == "uniform":
        return math.sqrt(3) * jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    return jax.random.normal(key, shape)


@partial(jax.jit, static_argnames="copies")
def noises(key: jax.Array, x: jax.Array, ids: jax.Array, sigma: Any, copies: int) -> jax.Array:
    """Gaussian noise [copies, B, D] for images x [B, D]; each image's depends on its id alone. The key is consumed."""

    def one(key):
        return sigma * jax.random.normal(key, (copies, *x.shape[1:]))

    return jax.vmap(one, out_axes=1)(per_example(key, ids))


def soft_cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """-log of the mean probability of y [B] over noisy copies, from logits [copies, B, C]: [B]."""
    log = jnp.take_along_axis(jax.nn.log_softmax(logits), y[None, :, None], axis=-1)[..., 0]
    return jnp.log(len(log)) - jax.nn.logsumexp(log, axis=0)


@partial(jax.jit, static_argnames=("noise", "mesh"))
def vote(
    key: jax.Array,
    held: tuple[Any, jax.Array, jax.Array],
    counts: jax.Array,
    rows: jax.Array,
    samples: jax.Array,
    sigma: Any,
    *,
    noise: str,
    mesh: jax.sharding.Mesh,
) -> jax.Array:
    """counts int32[devices, B, C + 1] with the classes of R * T noisy copies added, by each device its own rows'.

    held: the model, images x [B, D] and their ids [B]. rows and samples int32[R, T]: T batches of R rows, one batch
    after another. A row is copy number `sample` of image x[row]; a sample of -1 fills a batch up and counts for
    nothing. The last column counts logits that are not finite. What is drawn depends on the key, the image's id and the
    copy's number, never on which rows share a batch. Devices exchange nothing: the host adds up.
    """
    whole, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("batch")
    specs = (whole, whole, split, split, split, whole)
    count = jax.shard_map(partial(_count, noise), mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    return count(key, held, counts, rows, samples, sigma)


def _count(noise: str, key, held, counts, rows, samples, sigma):
    (model, x, ids), classes = held, counts.shape[-1] - 1
    own = per_example(key, ids)

    def one(row, sample):
        key, image = jax.random.fold_in(own[row], sample), as_unit(x[row])
        noisy = image + sigma * draw(noise, stream(key, "noise"), image.shape)
        logits = model.keyed(stream(key, "model"))(noisy)
        return jnp.where(jnp.all(jnp.isfinite(logits)), jnp.argmax(logits), classes)

    answers = jax.lax.map(lambda batch: jax.vmap(one)(*batch), (rows.T, samples.T))
    return counts.at[0, rows.T, answers].add((samples.T >= 0).astype(counts.dtype))
