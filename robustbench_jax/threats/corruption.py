"""Common corruptions: is the model right where images are noisy, blurred, snowed on or compressed?

Nobody looks for the worst change, so there is nothing to search and nothing to judge: every image is corrupted once
and classified, also one that the model got wrong before, as the paper counts. What an image gets depends on the key
and its index; the same at all severities, so that one draw of noise only grows. A model that adapts to what it is
shown (batch_norm_adaptation) is shown the images in their order, so many at a time; its answers depend on neighbours.

Reference: Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261.
Shapes: N examples, H height, W width, C channels, D = [H, W, C].
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import per_example, stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import DRAWS, classify
from robustbench_jax.ops.runtime import Runtime, by_slices, placed
from robustbench_jax.registry import register
from robustbench_jax.threats.evasion import check
from robustbench_jax.types import Classifier, Dataset, Outcome, UserError

LEAST = 8  # pixels on a side: the widest kernel's border must fit


@register("threat", "corruption", paper="hendrycks2019")
def run(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    attack: Any,
    budget: Any,
    *,
    pool: Dataset | None = None,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Corrupts `data` and says how much of it the model gets right. The key is consumed; `pool` is not used.

    Metrics: corrupted_accuracy, and where the attack changes images clean_accuracy and distortion.
    Arrays: clean_correct and robust (right on the corrupted image) bool[N], prediction int[N] (of the corrupted
    image), distortion float[N] (root mean square change, in [0, 1]), x_adv float32[N, D] in steps of 1/255.
    Raises UserError for images of fewer than 8 pixels on a side.
    """
    check(model, data)
    x = corrupted(stream(key, "corruption"), attack, budget, data.x, runtime=runtime)
    prediction = classified(model, x, runtime)
    right, changes = prediction == data.y, attack.changes
    clean = classified(model, data.x, runtime) == data.y if changes else right
    distortion = np.sqrt(np.mean((as_unit(x) - as_unit(data.x)) ** 2, axis=(1, 2, 3)))
    found = {"corrupted_accuracy": metrics.proportion("corrupted_accuracy", right)}
    if changes:
        found["clean_accuracy"] = metrics.proportion("clean_accuracy", clean)
        found["distortion"] = metrics.mean("distortion", distortion)
    report(len(data))
    arrays = {"clean_correct": clean, "robust": right, "prediction": prediction.astype(np.int32)}
    asked = (1 + changes) * len(data) * (DRAWS if model.stochastic else 1)
    return Outcome(found, arrays | {"distortion": distortion, "x_adv": as_unit(x)}, {"forward_evaluations": asked})


def classified(model: Classifier, x: np.ndarray, runtime: Runtime) -> np.ndarray:
    """Predicted classes int [N]; by a model that adapts to the images that it is shown, in their order."""
    adapted = getattr(model.net, "adapted", None)
    if adapted is None:
        return classify(model, x, runtime)
    parts = [x[at : at + model.net.together] for at in range(0, len(x), model.net.together)]
    return np.concatenate(
        [classify(model.replace(params=adapted(model.params, as_unit(part))), part, runtime) for part in parts]
    )


def corrupted(
    key: jax.Array,
    attack: Any,
    budget: Any,
    x: np.ndarray,
    *,
    ids: np.ndarray | None = None,
    runtime: Runtime = Runtime(),
) -> np.ndarray:
    """uint8 [N, H, W, C]: images x [N, H, W, C] corrupted, rounded down to 8 bits as the published ones are.

    ids [N]: which example each is (0 to N - 1 for None); its randomness depends on nothing else.
    """
    if min(x.shape[1:3]) < LEAST:
        height, width = x.shape[1:3]
        raise UserError(f"images of {height}x{width}: corruptions need at least {LEAST} pixels on a side")
    ids, width = np.arange(len(x)) if ids is None else np.asarray(ids), runtime.fit(len(x))
    attack, place = placed(attack, runtime, width)
    return by_slices(lambda ids, part: _corrupted(key, attack, budget, place(ids), place(part)), [ids, x], width)


@jax.jit
def _corrupted(key, attack, budget, ids, x):
    def one(key, x):
        return jnp.floor(attack.corrupt(key, x, budget.level) * 255.0 + 1e-3).astype(jnp.uint8)

    return jax.vmap(one)(per_example(key, ids), as_unit(x))
