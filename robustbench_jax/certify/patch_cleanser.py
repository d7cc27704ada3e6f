"""patch_cleanser(masks): a class that stays whatever is hidden by any two of a few masks; a proof against patches.

Reference: Xiang et al., USENIX Security 2022, arXiv:2108.09135 (double masking).
The masks cover every place of the patch (ops/ablation.py: `covering`), so that one of them hides it whole. The model
that is certified asks for the class under each mask alone. Where all agree that is the answer. Otherwise each
mask that disagrees with the majority is joined by each of the masks: the first whose class all of these keep gives the
answer, and the majority does if there is none. If every two masks on an image give y, the answer is y for every patch
on it: the mask that hides the patch gives y and keeps it, and joins every other mask to change what that one says.
Departs from the paper: masks of images and patches that are no squares are laid out along each axis by itself.
The model's answer to the same pixels is taken to be the same, in whatever batch.
Shapes: B images, D input shape, C classes, K masks.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robustbench_jax.ops import ablation
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.types import Certificate, Certifier, Classifier, UserError, record, static

AT_ONCE = 8  # images whose masks share batches
NAME = "patch_cleanser"


@register("certifier", NAME, paper="xiang2022", budgets=("patch",))
@record
class PatchCleanser(Certifier):
    """masks: along each axis, so that K <= masks^2; an image takes K (K + 1) / 2 forward passes. fill: what hides."""

    masks: int = static(default=6)
    fill: float = ablation.GREY
    own_prediction = True

    def __post_init__(self):
        if isinstance(self.masks, int) and self.masks < 1:
            raise UserError(f"{NAME}: masks = {self.masks} must be at least 1")
        ablation.require_fill(NAME, self.fill)

    def certify(
        self,
        key: jax.Array,
        model: Classifier,
        x: np.ndarray,
        y: np.ndarray,
        budget: Any,
        *,
        ids: np.ndarray,
        runtime: Runtime,
        report: Callable[[int], None] = lambda settled: None,
    ) -> Certificate:
        """As Certifier says; a proof. evidence: pairs_right int[B], how many pairs of masks (with themselves) give y.

        Raises UserError for another budget, patches that are larger than the images, and randomised models.
        """
        patch = ablation.require_patch(NAME, model, budget, x.shape[1:])
        if not len(x):
            return Certificate.empty(0)
        tables = []
        for start in range(0, len(x), AT_ONCE):
            tables.append(self.table(model, x[start : start + AT_ONCE], patch, runtime))
            report(min(start + AT_ONCE, len(x)))
        table = np.concatenate(tables)
        right = table == np.asarray(y)[:, None, None]
        upper, nothing = np.triu(np.ones(table.shape[1:], bool)), np.full(len(x), np.nan, np.float32)
        return Certificate(
            certified=right.all((1, 2)),
            prediction=np.array([answer(one) for one in table]),
            margin=nothing,
            radius=nothing.copy(),
            counts={"forward_evaluations": len(x) * int(upper.sum())},
            evidence={"pairs_right": right[:, upper].sum(1)},
        )

    def table(self, model: Classifier, x: np.ndarray, patch: tuple[int, int], runtime: Runtime) -> np.ndarray:
        """int [B, K, K]: the class of each image under each two masks; on the diagonal, under one."""
        single = rectangles(self.masks, patch, x.shape[1:])
        first, second = np.triu_indices(len(single))
        both = np.stack([single[first], single[second]], 1)
        classes = ablation.answers(model, x, both, self.fill, runtime, keep=False).argmax(-1)
        table = np.zeros((len(x), len(single), len(single)), int)
        table[:, first, second] = table[:, second, first] = classes
        return table


def rectangles(count: int, patch: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """int [K, 4]: top, left, height and width of masks such that each patch of this size lies within one."""
    (down, tall), (right, wide) = (
        ablation.covering(whole, side, count) for whole, side in zip(shape, patch, strict=False)
    )
    return np.array([[top, left, tall, wide] for top in down for left in right], np.int32)


def answer(table: np.ndarray) -> int:
    """The class that double masking gives an image, from its table [K, K]."""
    alone = table.diagonal()
    majority = np.bincount(alone).argmax()
    for mask in np.flatnonzero(alone != majority):
        if (table[mask] == alone[mask]).all():
            return int(alone[mask])
    return int(majority)
