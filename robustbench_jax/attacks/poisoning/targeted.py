"""What targeted poisoning shares: images of the intended class, moved a little, that drag ONE test image there.

Poisons keep their labels (clean label) and stay within eps of what they were in the largest change of a pixel, also
after rounding to uint8. The nearest images of the intended class in the surrogate's features are changed where
`nearest`, drawn by key else. Restarts are chosen by the surrogate's loss; no victim is ever asked.
Shapes: P poisons, D = [H, W, C].
"""

from typing import Any

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack, changed, chosen, untouched
from robustbench_jax.types import Classifier, Dataset, UserError


class Targeted(PoisoningAttack):
    """eps: largest change of a pixel, from 0 to 1."""

    goal = "targeted"
    clean_label = True
    references = 1
    eps: Any

    def crafted(
        self,
        key: jax.Array,
        bases: jax.Array,
        target: jax.Array,
        intended: int,
        references: tuple[Classifier, ...],
        data: Dataset,
    ) -> jax.Array:
        """Poisons [P, D] in [0, 1] of bases [P, D] for the target [D]; data: training images. The key is consumed."""
        raise NotImplementedError

    def craft(
        self,
        key: jax.Array,
        data: Dataset,
        count: int,
        x: np.ndarray,
        y: int,
        intended: int,
        references: tuple[Classifier, ...] = (),
    ) -> PoisonedDataset:
        if intended == y:
            raise UserError(f"{self.registered[1]}: the target is of class {y} already")
        rows, flags = chosen(stream(key, "rows"), data.y == intended, count)
        if not len(rows):
            return untouched(data)
        bases = as_unit(data.x[rows])
        made = self.crafted(stream(key, "craft"), bases, as_unit(np.asarray(x)), intended, references, data)
        return changed(data, rows, x=rounded(np.asarray(made), data.x[rows], float(self.eps)), flags=flags)


def rounded(made: np.ndarray, bases: np.ndarray, eps: float) -> np.ndarray:
    """uint8 [P, D]: the images rounded, and not more than floor(255 eps) levels from the bases uint8 [P, D]."""
    most = int(np.floor(eps * 255 + 1e-6))
    levels, base = np.round(np.clip(made, 0, 1) * 255).astype(int), bases.astype(int)
    return np.clip(np.clip(levels, base - most, base + most), 0, 255).astype(np.uint8)


def within(x: jax.Array, bases: jax.Array, eps: Any) -> jax.Array:
    """x moved into the box around the bases, and into [0, 1]."""
    return jax.numpy.clip(jax.numpy.clip(x, bases - eps, bases + eps), 0.0, 1.0)
