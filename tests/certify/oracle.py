"""A certifier with known answers, for tests of what is done with certificates; registered in tests alone."""

from contextlib import contextmanager

import numpy as np

from robustbench_jax import registry
from robustbench_jax.ops.judge import predict
from robustbench_jax.types import Certificate, Certifier, record

NAMES = ("exact_linear", "shy_linear", "smoothed_linear")


@record
class ExactLinear(Certifier):
    """Of two classes and logits that are linear in the image: certified where the margin is above eps times the dual
    norm of the difference of the weights; broken, by the steepest point, where it is not. The box is not looked at.

    share: certified only to this share of the exact radius, as a loose bound would.
    """

    registered = ("certifier", "exact_linear")
    share: float = 1.0
    timeout: float = 10.0

    def certify(self, key, model, x, y, budget, *, ids, runtime, report=lambda settled: None):
        weights = np.asarray(model.params["w"], np.float64)
        slope = weights[:, 1] - weights[:, 0]
        dual = {np.inf: 1, 2: 2, 1: np.inf}[budget.p]
        logits = predict(model, x).astype(np.float64)
        rows = np.arange(len(y))
        margin = logits[rows, y] - logits[rows, 1 - y]
        exact = margin / np.linalg.norm(slope, dual)
        radius = self.share * exact
        towards = np.where(y == 1, -1.0, 1.0).reshape(-1, *[1] * (x.ndim - 1)) * np.sign(slope).reshape(x.shape[1:])
        report(len(y))
        return Certificate(
            certified=radius > budget.eps,
            prediction=logits.argmax(-1),
            margin=(margin - budget.eps * np.linalg.norm(slope, dual)).astype(np.float32),
            radius=np.maximum(radius, 0).astype(np.float32),
            attacked=exact < budget.eps if self.share == 1 else np.zeros(len(y), bool),
            x_adv=(x / 255 + budget.eps * towards).astype(np.float32),
            seconds=np.full(len(y), 0.5),
            counts={"forward_evaluations": len(y), "branches": 3},
        )


@record
class ShyLinear(ExactLinear):
    """As exact_linear, without radii, times, counterexamples or a timeout."""

    timeout = None

    def certify(self, key, model, x, y, budget, *, ids, runtime, report=lambda settled: None):
        found = super().certify(key, model, x, y, budget, ids=ids, runtime=runtime, report=report)
        return Certificate(found.certified, found.prediction, found.margin, np.full(len(y), np.nan, np.float32))


@record
class SmoothedLinear(ExactLinear):
    """A made-up model of its own: it abstains from every third image; wrong once in a thousand."""

    own_prediction = True
    failure = 0.001

    def certify(self, key, model, x, y, budget, *, ids, runtime, report=lambda settled: None):
        found = super().certify(key, model, x, y, budget, ids=ids, runtime=runtime, report=report)
        here = ids % 3 != 0
        radius = np.where(here, found.radius, 0).astype(np.float32)
        prediction = np.where(here, found.prediction, -1)
        return Certificate(found.certified & here, prediction, found.margin, radius, failure=self.failure)


@contextmanager
def registered():
    """The three are certifiers inside the block: exact_linear, shy_linear and smoothed_linear."""
    registry.discover("certifier")
    registry.register("certifier", "exact_linear", paper="oracle2026", budgets=("linf", "l2", "l1"))(ExactLinear)
    registry.register("certifier", "shy_linear", budgets=("linf",))(ShyLinear)
    registry.register("certifier", "smoothed_linear", budgets=("l2", "linf"))(SmoothedLinear)
    try:
        yield
    finally:
        for name in NAMES:
            registry._entries["certifier"].pop(name, None)
