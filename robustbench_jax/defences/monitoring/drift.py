"""drift(): requests no longer come from where the training images came from.

Reference: the two-sample tests of data/drift.py: maximum mean discrepancy of the images (Gretton et al., JMLR 2012) and
chi-squared test of the classes, here those that the model gives. Every `window` requests are compared with as many
training images; the score is the squared discrepancy of the last comparison, since accounts have tastes and repeat
themselves, so that p-values, which are in the evidence, are not to be taken for rates of false alarms.
Shapes: W images of each side, D input shape.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from scipy.stats import chi2_contingency

from robustbench_jax.data.drift import discrepancy
from robustbench_jax.keys import generator, stream
from robustbench_jax.models.features import logits_of
from robustbench_jax.registry import register
from robustbench_jax.traffic import Monitor, Request
from robustbench_jax.types import UserError


@dataclass(eq=False)
class State:
    """images, labels: since the last comparison. found: (discrepancy, evidence) of that one."""

    images: list[np.ndarray] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    found: tuple[float, dict[str, Any]] | None = None


@register("monitor", "drift", paper="gretton2012", given=("learnt",))
@dataclass(frozen=True)
class DriftMonitor(Monitor):
    """window: requests that are compared at once."""

    window: int = 50
    across: bool = False
    threshold: float | None = None
    rate: float = 0.01
    learnt: Any = None

    def __post_init__(self):
        super().__post_init__()
        if self.window < 2:
            raise UserError(f"drift: window = {self.window} must be at least 2")

    def learn(self, key, model, data) -> "DriftMonitor":
        if len(data) < self.window:
            raise UserError(f"drift: window = {self.window}: there are {len(data)} training images; give fewer")
        rows = np.asarray(jax.random.permutation(stream(key, "rows"), len(data)))[: self.window]
        seed = int(generator(stream(key, "permutations")).integers(2**31))
        return replace(self, learnt=(data.x[rows], logits_of(model, data.x[rows]).argmax(-1), seed))

    def init(self) -> State:
        return State()

    def score(self, state: State, request: Request) -> tuple[float, dict[str, Any]]:
        state.images.append(request.x)
        state.labels.append(int(np.argmax(request.logits)))
        if len(state.images) == self.window:
            state.found = self._compared(np.stack(state.images), np.array(state.labels))
            state.images, state.labels = [], []
        score, found = state.found or (0.0, {"images_p": None, "labels_p": None})
        return score, {"discrepancy": score, "requests": self.window, **found}

    def _compared(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, dict[str, Any]]:
        trusted, theirs, seed = self.learnt
        points = np.concatenate([images, trusted]).reshape(2 * self.window, -1) / 255.0
        mmd, images_p = discrepancy(points, self.window, np.random.default_rng(seed))
        most = max(labels.max(), theirs.max()) + 1
        table = np.stack([np.bincount(side, minlength=most) for side in (labels, theirs)])
        table = table[:, table.any(0)]
        labels_p = float(chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0
        return mmd, {"images_p": images_p, "labels_p": labels_p}
