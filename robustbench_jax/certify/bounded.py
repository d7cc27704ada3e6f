"""What certifiers by bound propagation share: images to regions, margins to verdicts, and float64 where it is close.

The certificate is about the network in exact arithmetic with these float32 weights, its input anywhere in the region.
Bounds are computed in float32; a margin that rounding could have moved across zero, within CLOSE of the size of the
logits, is computed again in float64 and believed beyond EXACT of it. The certificate's flags tell what was decided so.
Shapes: B images, D input shape, C classes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.bounds.regions import Region, around
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.runtime import Runtime, placed
from robustbench_jax.types import Certificate, Certifier, Classifier, UserError

CLOSE, EXACT = 1e-4, 1e-10
BALLS = ("linf", "l2", "l1")


class BoundCertifier(Certifier):
    """A certifier that bounds the margins of a batch: `margins(model, regions, rows) -> [B, R]`, on the host."""

    def margins(self, model: Classifier, regions: Region, rows: np.ndarray) -> np.ndarray:
        """[B, R]: lower bounds of the rows [B, R, C] of the logits on the regions."""
        raise NotImplementedError

    def certify(self, key, model, x, y, budget, *, ids, runtime, report=lambda settled: None) -> Certificate:
        """As every certifier; raises UserError for randomised models and for operations without bounds."""
        self.require_deterministic(model)
        if not len(x):
            return Certificate.empty(0)
        logits = predict(model, x, runtime)
        slack = CLOSE * np.maximum(np.abs(logits).max(-1), 1.0)
        margin = np.zeros(len(x))
        with jax.default_matmul_precision("highest"):
            for part in slices(len(x), runtime):
                margin[part] = self.smallest(model, x[part], y[part], budget, logits.shape[-1], runtime)
                report(int(part[-1]) + 1)
            close = np.flatnonzero(np.abs(margin) <= slack)
            if len(close):
                margin[close] = self.in_float64(model, x[close], y[close], budget, logits.shape[-1], runtime)
        certified = margin > np.where(np.abs(margin) <= slack, slack * (EXACT / CLOSE), 0.0)
        return Certificate(
            certified=certified,
            prediction=logits.argmax(-1),
            margin=margin.astype(np.float32),
            radius=np.full(len(x), np.nan, np.float32),
            flags=(f"{len(close)} images were so close that float64 decided them",) if len(close) else (),
        )

    def require_deterministic(self, model: Classifier) -> None:
        if model.stochastic:
            raise UserError(f"{self.registered[1]}: the model is randomised; bounds are for deterministic ones")

    def smallest(self, model, x, y, budget, classes: int, runtime: Runtime) -> np.ndarray:
        """[B]: the smallest margin of each image over all other classes."""
        width = runtime.fit(len(x))
        rows = np.minimum(np.arange(width), len(x) - 1)
        model, place = placed(model, runtime, width)
        regions = place(regions_of(x[rows], budget))
        of_y = margin_rows(np.asarray(y)[rows], classes).astype(regions.low.dtype)
        found = self.margins(model, regions, place(of_y))
        return np.asarray(found).min(-1)[: len(x)]

    def in_float64(self, model, x, y, budget, classes: int, runtime: Runtime) -> np.ndarray:
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda leaf: np.asarray(leaf, _wide(leaf)), model)
            x = np.asarray(as_unit(np.asarray(x)), np.float64)
            parts = slices(len(x), runtime)
            return np.concatenate([self.smallest(wide, x[p], y[p], budget, classes, runtime) for p in parts])


def regions_of(x: np.ndarray, budget: Any) -> Region:
    """The regions of a budget around images x [B, D], uint8 or in [0, 1]."""
    x = x if x.dtype == np.float64 else as_unit(x)
    return jax.vmap(partial(around, budget=budget))(jnp.asarray(x))


def margin_rows(y: np.ndarray, classes: int) -> np.ndarray:
    """[B, C - 1, C]: the logit of y minus each other one."""
    others = np.array([[j for j in range(classes) if j != label] for label in y])
    eye = np.eye(classes, dtype=np.float32)
    return eye[y][:, None] - eye[others]


def slices(count: int, runtime: Runtime) -> list[np.ndarray]:
    """Numbers of images that are bounded together."""
    return np.split(np.arange(count), range(runtime.batch, count, runtime.batch))


def _wide(leaf: Any) -> Any:
    dtype = np.asarray(leaf).dtype
    return np.float64 if dtype == np.float32 else dtype
