"""Images of which only rectangles are left, or from which rectangles are taken out; and a model's answers to them.

References: Levine & Feizi, NeurIPS 2020, arXiv:2002.10733 (bands and blocks that stay); Xiang et al., USENIX Security
2022, arXiv:2108.09135 (masks that cover every patch).
Shapes: B images, H, W, C image or classes, M choices of at most R rectangles: int[M, R, 4], each top, left, height and
width in pixels. A rectangle that leaves the image on one side comes in again on the other.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import require_finite
from robustbench_jax.ops.runtime import Runtime, by_slices, placed
from robustbench_jax.registry import nearest
from robustbench_jax.types import Classifier, UserError

SHAPES = ("column", "row", "block")
GREY = 0.5  # no pixel of a uint8 image is exactly that, so that what was removed can be told from what was not


def bands(kind: str, width: int, shape: tuple[int, ...]) -> np.ndarray:
    """[M, 1, 4]: all M = W columns, H rows or H * W square blocks, `width` wide, of images of this shape."""
    height, breadth = shape[:2]
    down = np.arange(height) if kind != "column" else np.zeros(1, int)
    right = np.arange(breadth) if kind != "row" else np.zeros(1, int)
    tall, wide = (height if kind == "column" else width), (breadth if kind == "row" else width)
    return np.array([[[top, left, tall, wide]] for top in down for left in right], np.int32)


def met(kind: str, width: int, patch: tuple[int, int], shape: tuple[int, ...]) -> int:
    """How many of these bands a patch (its height and width) may touch, wherever it lies."""
    down, right = (min(whole, side + width - 1) for whole, side in zip(shape, patch, strict=False))
    return {"column": right, "row": down, "block": down * right}[kind]


def covering(whole: int, patch: int, count: int) -> tuple[np.ndarray, int]:
    """Starts and length of at most `count` masks of one axis, such that every patch lies within one of them.

    Masks start a stride s = ceil((whole - patch + 1) / count) apart and are patch + s - 1 long, so that the i-th covers
    the patches that start at i s, ..., i s + s - 1; those that would leave the image are moved back into it.
    """
    stride = -(-(whole - patch + 1) // count)
    length = patch + stride - 1
    return np.unique(np.minimum(np.arange(count) * stride, whole - length)), length


def inside(rectangles: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """bool [H, W]: the pixels that any of the rectangles [R, 4] has."""
    height, width = shape[:2]

    def one(rectangle):
        top, left, tall, wide = rectangle
        return ((jnp.arange(height) - top) % height < tall)[:, None] & ((jnp.arange(width) - left) % width < wide)

    return jnp.any(jax.vmap(one)(rectangles), 0)


def only(x: jax.Array, rectangles: jax.Array, fill: Any) -> jax.Array:
    """The image [H, W, C] where the rectangles [R, 4] are, `fill` elsewhere."""
    return jnp.where(inside(rectangles, x.shape)[..., None], x, fill)


def without(x: jax.Array, rectangles: jax.Array, fill: Any) -> jax.Array:
    """`fill` where the rectangles [R, 4] are, the image [H, W, C] elsewhere."""
    return jnp.where(inside(rectangles, x.shape)[..., None], fill, x)


def answers(
    model: Classifier, x: np.ndarray, rectangles: np.ndarray, fill: float, runtime: Runtime, *, keep: bool
) -> np.ndarray:
    """Logits float32 [B, M, C] of images x [B, H, W, C], uint8 or in [0, 1], for each choice of rectangles.

    keep: the rectangles are what is left, otherwise what is taken out. Raises UserError where logits are not finite.
    """
    images, choices = (a.ravel() for a in np.mgrid[: len(x), : len(rectangles)])
    width = runtime.fit(len(images))
    held, place = placed((model, jnp.asarray(x), jnp.asarray(rectangles), fill), runtime, width)
    logits = by_slices(lambda *work: _logits(held, *map(place, work), keep=keep), [images, choices], width)
    logits = logits.reshape(len(x), len(rectangles), -1)
    require_finite(logits.reshape(len(x), -1), "the model's logits of images that are partly hidden")
    return logits


def require_choice(owner: str, kind: str, width: int, fill: float) -> None:
    """UserError for a shape that there is not, a width below 1, and a fill that no image can have."""
    if kind not in SHAPES:
        raise UserError(f"{owner}: kind = {kind!r}{nearest(kind, SHAPES)}")
    if isinstance(width, int) and width < 1:
        raise UserError(f"{owner}: width = {width} must be at least 1 pixel")
    require_fill(owner, fill)


def require_fill(owner: str, fill: float) -> None:
    if isinstance(fill, int | float) and not 0 <= fill <= 1:
        raise UserError(f"{owner}: fill = {fill} must lie between 0 and 1")


def require_narrow(owner: str, kind: str, width: int, shape: tuple[int, ...]) -> None:
    """UserError where a band is wider than images of this shape."""
    sides = {"column": shape[1:2], "row": shape[:1], "block": shape[:2]}[kind]
    if width > min(sides):
        raise UserError(f"{owner}: width = {width}: images of {shape[0]} x {shape[1]} take at most {min(sides)}")


def require_patch(owner: str, model: Classifier, budget: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a patch budget, whatever its least scale: smaller ones lie within one of that size.

    UserError for another budget, images that are not [H, W, C], a patch that is larger than they are and randomised
    models, whose answer to the same pixels may change.
    """
    name = getattr(budget, "registered", ("", type(budget).__name__))[1]
    if name != "patch":
        raise UserError(f"{owner} certifies patch, e.g. patch(5, 5); got {name}")
    if len(shape) != 3:
        raise UserError(f"{owner}: images must be [H, W, C]; got {list(shape)}")
    jax.eval_shape(budget.identity, jax.ShapeDtypeStruct(shape, jnp.float32))
    if model.stochastic:
        raise UserError(f"{owner}: the model is randomised; votes are of deterministic ones")
    return budget.height, budget.width


@partial(jax.jit, static_argnames="keep")
def _logits(held: tuple, rows: jax.Array, choices: jax.Array, *, keep: bool) -> jax.Array:
    model, x, rectangles, fill = held

    def one(row, choice):
        return model((only if keep else without)(as_unit(x[row]), rectangles[choice], fill))

    return jax.vmap(one)(rows, choices)
