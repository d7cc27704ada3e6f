"""Gradient inversion: what do the gradients that a client shares show of its images?

The first images are put into batches in their order; each batch gives one gradient, of the model as it is. Several
reconstructions of a batch are assigned to its images so that their squared distances sum to the least (an attacker
cannot know the order).
Shapes: N images, B of a batch, D = [H, W, C].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from robustbench_jax import metrics
from robustbench_jax.attacks.privacy.gradient_inversion import GradientInversion, gradient
from robustbench_jax.keys import stream
from robustbench_jax.models.net import Net
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.ops.shared_gradients import Gradients
from robustbench_jax.ops.similarity import psnr, ssim
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, Outcome, UserError


@register("threat", "gradient_inversion", verb="privacy")
def run(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    attack: GradientInversion,
    budget: Gradients,
    *,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Reconstructs the images of `data`. Consumes the key. Raises UserError for a model whose weights cannot be told.

    Arrays: clean_correct bool[N], psnr and ssim float[N], label_found bool[N]. Images that fill no batch are left out.
    """
    name, size = attack.registered[1], budget.batch
    if not isinstance(model.net, Net):
        raise UserError(f"{name}: the gradients of our own architectures alone can be shared")
    if attack.largest and size > attack.largest:
        raise UserError(f"gradients({size}): '{name}' is for batches of at most {attack.largest}")
    count = len(data) // size * size
    if not count:
        raise UserError(f"gradients({size}): there are {len(data)} images")
    x, y = as_unit(data.x[:count]), np.asarray(data.y[:count])
    made, said = np.zeros(x.shape, np.float32), np.zeros(count, np.int32)
    for at in range(0, count, size):
        own, rows = jax.random.fold_in(key, at), slice(at, at + size)
        sent = budget.shared(stream(own, "noise"), _gradient(model, jnp.asarray(x[rows]), jnp.asarray(y[rows])))
        given = (stream(own, "attack"), model, sent, jnp.asarray(y[rows]), x.shape[1:], len(data.classes))
        images, labels = (np.asarray(value) for value in attack.invert(*given))
        order = assigned(images, x[rows])
        made[rows], said[rows] = images[order], labels[order]
        report(at + size)
    arrays = {
        "clean_correct": classify(model, data.x[:count], runtime) == y,
        "psnr": np.asarray(jax.vmap(psnr)(jnp.asarray(x), jnp.asarray(made))),
        "ssim": np.asarray(jax.vmap(ssim)(jnp.asarray(x), jnp.asarray(made))),
        "label_found": said == y,
    }
    found = {
        "reconstruction_psnr": metrics.mean("reconstruction_psnr", arrays["psnr"]),
        "reconstruction_ssim": metrics.mean("reconstruction_ssim", arrays["ssim"]),
        "labels_found": metrics.proportion("labels_found", arrays["label_found"]),
        "clean_accuracy": metrics.proportion("clean_accuracy", arrays["clean_correct"]),
    }
    rounded = np.round(np.clip(made, 0, 1) * 255).astype(np.uint8)
    return Outcome(found, arrays, artefacts={"ids": np.arange(count), "x_adv": rounded, "taken": said})


def assigned(made: np.ndarray, x: np.ndarray) -> np.ndarray:
    """int [B]: which of the reconstructions made [B, D] goes with each image x [B, D]."""
    flat, other = (values.reshape(len(values), -1).astype(np.float64) for values in (x, made))
    away = np.sum((flat[:, None] - other) ** 2, -1)
    return linear_sum_assignment(away)[1]


@jax.jit
def _gradient(model: Classifier, x: jax.Array, y: jax.Array) -> dict:
    return gradient(model, x, y)
