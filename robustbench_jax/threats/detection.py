"""Detection: how well a model that may give no answer tells attacked images from clean ones.

Robust accuracy has the attack already; here is what detectors are published with. Of an attack that knows of the
detector these numbers say little: it stops as soon as it is not rejected.
Shapes: N images, D input shape.
"""

import numpy as np

from robustbench_jax.metrics import DEFINITIONS, proportion
from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.types import Classifier, Dataset, Metric

RESAMPLES = 999


def measure(
    model: Classifier, data: Dataset, attacked: np.ndarray, x_adv: np.ndarray, runtime: Runtime
) -> tuple[dict[str, Metric], dict[str, np.ndarray]]:
    """rejected_clean, rejected_attacked and detection_auc, and the arrays that they are of.

    attacked: which of the N images were; x_adv [N, D]: what the attack handed in of each. A randomised model is asked
    once.

    Arrays: excess and excess_attacked float[N], the logit of no answer over the largest other one, above 0 where an
    image is rejected; NaN where it was not attacked.
    """
    logits = predict(model, data.x, runtime)
    right = np.argmax(logits[:, :-1], axis=-1) == data.y
    clean, after = _excess(logits), np.full(len(data), np.nan, np.float32)
    if len(attacked):
        after[attacked] = _excess(predict(model, x_adv[attacked], runtime))
    found = {
        "rejected_clean": proportion("rejected_clean", clean[right] > 0),
        "rejected_attacked": proportion("rejected_attacked", after[attacked] > 0),
        "detection_auc": area(clean[right], after[right]),
    }
    return found, {"excess": clean, "excess_attacked": after}


def area(clean: np.ndarray, attacked: np.ndarray, seed: int = 0) -> Metric:
    """The area under the ROC curve of scores of the same n images, NaN where one was not attacked; n counts images.

    Its 95% interval is the percentile bootstrap: images are drawn, each with both of its scores.
    """
    text, n, rng = DEFINITIONS["detection_auc"].text, len(clean), np.random.default_rng(seed)
    both = np.flatnonzero(~np.isnan(attacked))
    if not len(both):
        return Metric(None, n, None, None, text)
    order = np.argsort(clean)
    less, most = (np.searchsorted(clean[order], attacked[both], side) for side in ("left", "right"))

    def of(times: np.ndarray) -> float:
        """The area where each image is there so many times: pairs in order, ties counting half; NaN for no pairs."""
        before, weights = np.append(0, np.cumsum(times[order])), times[both]
        pairs = before[-1] * weights.sum()
        return float(weights @ (before[less] + before[most]) / (2 * pairs)) if pairs else np.nan

    drawn = [of(np.bincount(rng.integers(0, n, n), minlength=n)) for _ in range(RESAMPLES if n > 1 else 0)]
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if drawn else (None, None)
    return Metric(of(np.ones(n, int)), n, *(None if end is None else float(end) for end in (low, high)), text)


def _excess(logits: np.ndarray) -> np.ndarray:
    return logits[:, -1] - logits[:, :-1].max(axis=-1)
