"""Model inversion: do images that were made from a model alone show what its classes look like?

The judge is another model, trained on the same images from another seed: the victim itself would be fooled by what is
merely adversarial to it. How near reconstructions are to the class is told by the structural similarity to the mean of
its training images, and in the judge's features (before its last layer) by the distances to their mean there and to the
nearest training image, as in Zhang et al., CVPR 2020, arXiv:1911.07135; here both are divided by what the class's own
test images have on average, so that 1 is an image like any.
Shapes: B reconstructions, D = [H, W, C], C classes, F features.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist

from robustbench_jax import metrics
from robustbench_jax.attacks.privacy.model_inversion import ModelInversion
from robustbench_jax.keys import stream
from robustbench_jax.models.features import features_of
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.reconstructions import Reconstructions
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.ops.similarity import ssim
from robustbench_jax.registry import register
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Classifier, Dataset, Outcome, UserError


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

    Artefacts: reconstructions uint8[B, D], labels and judged int[B]. The key is consumed. Raises UserError where the
    attack's public images share a class with the victim's.
    """
    _require_apart(attack, lab.data.classes)
    victim, (judge,) = lab.fit(lab.data), lab.surrogates(1)
    classes = len(lab.data.classes)
    labels = np.repeat(np.arange(classes), budget.n)
    made = attack.invert(stream(key, "attack"), victim, jnp.asarray(labels), lab.data.x.shape[1:])
    rounded = np.round(np.clip(np.asarray(made), 0, 1) * 255).astype(np.uint8)
    said = {name: classify(model, rounded, runtime) for name, model in (("victim", victim), ("judge", judge))}
    means = np.stack([as_unit(lab.data.x[lab.data.y == label]).mean(0) for label in range(classes)])
    alike = np.asarray(jax.vmap(ssim)(jnp.asarray(as_unit(rounded)), jnp.asarray(means[labels])))
    centre, nearest = distances(judge, rounded, labels, lab.data, lab.test, runtime)
    test = classify(victim, data.x, runtime) == data.y
    report(len(data))
    found = {
        "inversion_accuracy": metrics.proportion("inversion_accuracy", said["judge"] == labels),
        "inversion_confidence": metrics.proportion("inversion_confidence", said["victim"] == labels),
        "class_mean_ssim": metrics.mean("class_mean_ssim", alike),
        "feature_distance": metrics.mean("feature_distance", centre[~np.isnan(centre)]),
        "nearest_distance": metrics.mean("nearest_distance", nearest[~np.isnan(nearest)]),
        "clean_accuracy": metrics.proportion("clean_accuracy", test),
    }
    artefacts = {"reconstructions": rounded, "labels": labels, "judged": said["judge"], "means": means}
    return Outcome(found, {"clean_correct": test}, artefacts=artefacts)


def distances(
    judge: Classifier, x: np.ndarray, labels: np.ndarray, train: Dataset, test: Dataset, runtime: Runtime = Runtime()
) -> tuple[np.ndarray, np.ndarray]:
    """Of images x uint8 [B, D] of classes labels [B], each [B]: the distance in the judge's features to the mean of the
    class's training images, and to the nearest of them; over the mean distance of the class's test images. NaN where
    that is 0 (the judge has dead features) or there are none.
    """
    own, seen, unseen = (features_of(judge, it, runtime) for it in (x, train.x, test.x))
    centre, nearest = np.zeros(len(x)), np.zeros(len(x))
    for label in np.unique(labels):
        known, usual, made = seen[train.y == label], unseen[test.y == label], labels == label
        for out, points in ((centre, known.mean(0, keepdims=True)), (nearest, known)):
            unit = cdist(usual, points).min(1).mean() if len(usual) else 0.0
            out[made] = cdist(own[made], points).min(1) / unit if unit else np.nan
    return centre, nearest


def _require_apart(attack: ModelInversion, classes: tuple[str, ...]) -> None:
    if shared := [name for name in attack.public_classes() if name in classes]:
        name = attack.registered[1]
        raise UserError(
            f"{name}: public images show classes of the victim ({', '.join(shared)}); give others, e.g. "
            "public=only(fashion_mnist_mini, [0, 1]) where the victim has only(fashion_mnist_mini, [2, 3])"
        )
