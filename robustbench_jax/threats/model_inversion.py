"""Model inversion: do images that were made from a model alone show what its classes look like?

The judge is another model, trained on the same images from another seed: the victim itself would be fooled by what is
merely adversarial to it. How near reconstructions are to the class is told by the structural similarity to the mean of
its training images.
Shapes: B reconstructions, D = [H, W, C], C classes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.attacks.privacy.model_inversion import ModelInversion
from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.reconstructions import Reconstructions
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.ops.similarity import ssim
from robustbench_jax.registry import register
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Dataset, Outcome


@register("threat", "model_inversion", trains=True, verb="privacy")
def run(
    key: jax.Array,
    lab: Lab,
    data: Dataset,
    attack: ModelInversion,
    budget: Reconstructions,
    *,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Trains victim and judge, and judges the reconstructions. Accuracy is the victim's on the test images `data`.

    Artefacts: reconstructions uint8[B, D], labels and judged int[B]. The key is consumed.
    """
    victim, (judge,) = lab.fit(lab.data), lab.surrogates(1)
    classes = len(lab.data.classes)
    labels = np.repeat(np.arange(classes), budget.n)
    made = attack.invert(stream(key, "attack"), victim, jnp.asarray(labels), lab.data.x.shape[1:])
    rounded = np.round(np.clip(np.asarray(made), 0, 1) * 255).astype(np.uint8)
    said = {name: classify(model, rounded, runtime) for name, model in (("victim", victim), ("judge", judge))}
    means = np.stack([as_unit(lab.data.x[lab.data.y == label]).mean(0) for label in range(classes)])
    alike = np.asarray(jax.vmap(ssim)(jnp.asarray(as_unit(rounded)), jnp.asarray(means[labels])))
    test = classify(victim, data.x, runtime) == data.y
    report(len(data))
    found = {
        "inversion_accuracy": metrics.proportion("inversion_accuracy", said["judge"] == labels),
        "inversion_confidence": metrics.proportion("inversion_confidence", said["victim"] == labels),
        "class_mean_ssim": metrics.mean("class_mean_ssim", alike),
        "clean_accuracy": metrics.proportion("clean_accuracy", test),
    }
    artefacts = {"reconstructions": rounded, "labels": labels, "judged": said["judge"], "means": means}
    return Outcome(found, {"clean_correct": test}, artefacts=artefacts)
