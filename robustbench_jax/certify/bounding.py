"""Bounds of many images at once: the kernels of ops/bounds over images and rows, one node after another.

Rows are the entries of a node whose bounds matter; they go back through the network in chunks, so that memory does not
grow with the size of a layer or the number of images. Entries that depend on different things below go back as one row.
Shapes: B images, R rows, M entries in one row, C classes; node shapes S.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.bounds import apart, interval, linear, slopes
from robustbench_jax.ops.bounds.graph import Graph, read
from robustbench_jax.ops.bounds.regions import Bounds, Region
from robustbench_jax.ops.runtime import on_cpu, power_of_two
from robustbench_jax.types import Classifier

MEMORY = (
    2**24,
    2**28,
)  # bytes of one array of coefficients, on CPU (beyond it malloc asks the system anew) and elsewhere
RATE = 0.25  # first step of the ascent on slopes, which lie between 0 and 1
FEWEST = 8  # rows that a chunk is not narrower than
MANY = 128  # rows from which it is worth while to ask whether some may go back as one

Known = dict[int, Bounds]


@dataclass(frozen=True)
class Structure:
    """What is fixed about a model's graph: shapes of its nodes, and which of them need bounds, in order.

    exact: those of them whose interval bounds cannot be bettered, the region being a box.
    """

    shapes: tuple[tuple[int, ...], ...]
    needed: tuple[int, ...]
    exact: frozenset[int]
    operations: tuple[tuple[int, str, tuple[int, ...]], ...]

    @property
    def output(self) -> int:
        return len(self.shapes) - 1

    @property
    def widest(self) -> int:
        return max(int(np.prod(shape)) for shape in self.shapes)


def structure(model: Classifier, shape: tuple[int, ...]) -> Structure:
    """Raises UserError where the model has an operation without bounds."""
    seen: list[Graph] = []

    def trace(model, x):
        seen.append(read(model, x))
        return 0

    jax.eval_shape(trace, model, jax.ShapeDtypeStruct(shape, _dtype(model)))
    nodes = seen[0].nodes
    first = {i for i, n in enumerate(nodes) if n.kind == "affine" and set(n.inputs) == {0} and n.mixing <= 1}
    operations = tuple((i, n.kind, n.inputs) for i, n in enumerate(nodes) if n.kind in linear.LINES)
    shapes = tuple(n.shape for n in nodes)
    return Structure(shapes, linear.needed(seen[0]), frozenset(first | {0}), operations)


def first_layers(model: Classifier, regions: Region) -> Known:
    """Interval bounds of every needed node; in a ball, those next to the input by their rows, which is exact."""
    form = structure(model, regions.low.shape[1:])
    known = intervals(model, regions, {})
    if regions.norm == "linf":
        return known
    refined = {}
    for start in sorted(form.exact & set(form.needed)):
        count = int(np.prod(form.shapes[start]))
        rows = np.broadcast_to(np.arange(count, dtype=np.int32), (len(regions.low), count))
        found = bounds_of_rows(form, model, regions, known, start, rows)
        refined[start] = scattered(known[start], found, rows, True)
    return intervals(model, regions, refined)


def crown(model: Classifier, regions: Region, known: Known, *, tighter: bool = False, steps: int = 0) -> Known:
    """Bounds of every needed node, those of later ones made with the lines of earlier ones (full backward CROWN).

    Entries whose sign `known` decides keep their bounds. tighter: the others get the better of both bounds instead of
    CROWN's own. steps: of ascent on the slopes below ReLUs, for each entry by itself.
    """
    form = structure(model, regions.low.shape[1:])
    for start in form.needed:
        if start in form.exact:
            continue  # their intervals cannot be bettered
        rows = indices(np.asarray(_ambiguous(model, regions, known[start], start)))
        if rows.shape[1]:
            found = bounds_of_rows(form, model, regions, known, start, rows, steps)
            known = known | {start: scattered(known[start], found, rows, tighter)}
            known |= {number: bounds for number, bounds in intervals(model, regions, known).items() if number > start}
    return known


def indices(matter: np.ndarray) -> np.ndarray:
    """int [B, R]: for each image the flat numbers of the true entries of [B, S], then -1; R is the most of an image."""
    flat = matter.reshape(len(matter), -1)
    out = np.full((len(flat), int(flat.sum(1).max(initial=0))), -1, np.int32)
    for image, row in enumerate(flat):
        chosen = np.flatnonzero(row)
        out[image, : len(chosen)] = chosen
    return out


def bounds_of_rows(
    form: Structure, model: Classifier, regions: Region, known: Known, start: int, rows: np.ndarray, steps: int = 0
) -> Bounds:
    """Bounds [B, R] of the entries `rows` of node `start`, in chunks."""
    earlier = {k: v for k, v in known.items() if k < start}
    if (found := _together(form, model, regions, earlier, start, rows, steps)) is not None:
        return found
    width = chunk_of(form, len(rows), rows.shape[1])
    parts = [
        _rows(model, regions, earlier, part, start, steps, None, ascent=steps > 0)
        for part in _chunks(rows[..., None], width)
    ]
    return Bounds(*(np.concatenate([np.asarray(p[i]) for p in parts], axis=1)[:, : rows.shape[1]] for i in range(2)))


def _together(
    form: Structure, model: Classifier, regions: Region, known: Known, start: int, rows: np.ndarray, steps: int
) -> Bounds | None:
    """As `bounds_of_rows`, entries that are apart in one row; None where that does not halve the rows, or a bound is no
    number, which would spread to its neighbours.
    """
    wanted, size = np.unique(rows[rows >= 0]).astype(np.int32), int(np.prod(form.shapes[start]))
    if rows.shape[1] < MANY:
        return None
    one = regions.low[0]
    sites = apart.sites(lambda e: jax.tree.map(np.asarray, _reach(model, one, e, start)), wanted, start, size)
    if sites is None:
        return None
    matter = np.zeros((len(rows), size), bool)
    image, at = np.nonzero(rows >= 0)
    matter[image, rows[image, at]] = True
    passes = [sites.passes(colour, matter) for colour in sites.colours]
    counts = [p.shape[1] for p in passes]
    if 2 * sum(counts) > rows.shape[1]:
        return None
    sizes = {number: int(np.prod(shape)) for number, shape in enumerate(form.shapes)}
    width = _width(counts, chunk_of(form, len(rows), rows.shape[1]))
    flat = [np.zeros((len(rows), size), regions.low.dtype) for _ in range(2)]
    for colour, entries in zip(sites.colours, passes, strict=True):
        shares = sites.shares(colour, sizes)
        for part in _chunks(entries, width):
            found = _rows(model, regions, known, part, start, steps, shares, ascent=steps > 0)
            image, *place = np.nonzero(part >= 0)
            for side, bound in enumerate(found):
                flat[side][image, part[image, *place]] = np.asarray(bound)[image, *place]
    if not all(np.isfinite(side).all() for side in flat):
        return None
    return Bounds(*(np.take_along_axis(side, np.maximum(rows, 0), 1) for side in flat))


def _width(counts: list[int], most: int) -> int:
    """The power of two, of at most so many rows, that carries these counts of rows with the least work."""
    powers = [1 << k for k in range(2, most.bit_length())]
    return min(powers, key=lambda w: sum(-(-count // w) * (w + 1) for count in counts))


def _chunks(rows: np.ndarray, width: int) -> list[np.ndarray]:
    """Rows [B, R, M] in parts of a width, the last one filled up with rows of nothing."""
    short = -rows.shape[1] % width
    filled = np.pad(rows, ((0, 0), (0, short), (0, 0)), constant_values=-1)
    return np.split(filled, filled.shape[1] // width, axis=1)


def chunk_of(form: Structure, images: int, rows: int) -> int:
    """How many rows of each image go back at once: a power of two."""
    fits = MEMORY[not on_cpu()] // (8 * form.widest * images)
    return min(power_of_two(max(rows, FEWEST)), 1 << max(int(fits), FEWEST).bit_length() - 1)


def scattered(old: Bounds, found: Bounds, rows: np.ndarray, tighter: bool) -> Bounds:
    """The old bounds [B, S] with new ones [B, R] put where they belong."""
    out = []
    for side, (before, new) in enumerate(zip(old, found, strict=True)):
        flat = np.array(before).reshape(len(rows), -1)
        image, at = np.nonzero(rows >= 0)
        entry = rows[image, at]
        value = new[image, at]
        if tighter:
            value = (np.maximum, np.minimum)[side](value, flat[image, entry])
        flat[image, entry] = value
        out.append(flat.reshape(before.shape))
    return Bounds(*out)


def margin_rows(y: jax.Array, classes: int) -> jax.Array:
    """[C, C]: row j is the logit of y minus that of j; row y is zero."""
    eye = jnp.eye(classes)
    return eye[y][None] - eye


def intervals(model: Classifier, regions: Region, known: Known) -> Known:
    """Interval bounds of the needed nodes, made from those that are known."""
    return _intervals(model, regions, known)


@jax.jit
def _intervals(model: Classifier, regions: Region, known: Known) -> Known:
    def one(region, known):
        graph = read(model, region.low)
        found = interval.propagate(graph, region.box, known)
        return {number: found[number] for number in linear.needed(graph)}

    return jax.vmap(one)(regions, known)


@jax.jit
def interval_margins(model: Classifier, regions: Region, rows: jax.Array, known: Known) -> jax.Array:
    """[B, R]: lower bounds of the rows [B, R, C] of the logits, by intervals, the last layer folded in."""

    def one(region, rows, known):
        graph = read(model, region.low)
        return linear.at_inputs(graph, rows, interval.propagate(graph, region.box, known), region)

    return jax.vmap(one)(regions, rows, known)


@jax.jit
def linear_margins(model: Classifier, regions: Region, rows: jax.Array, known: Known) -> jax.Array:
    """[B, R]: lower bounds of the rows [B, R, C] of the logits, carried back to the input."""

    def one(region, rows, known):
        graph = read(model, region.low)
        lines = linear.lines_of(graph, known, region.box, {})
        return linear.least(graph, graph.output, rows, lines, region)

    return jax.vmap(one)(regions, rows, known)


@partial(jax.jit, static_argnames="start")
def _ambiguous(model: Classifier, regions: Region, bounds: Bounds, start: int) -> jax.Array:
    def one(region, bounds):
        return linear.ambiguous(read(model, region.low), start, bounds)

    return jax.vmap(one)(regions, bounds)


@partial(jax.jit, static_argnames="start")
def _reach(model: Classifier, image: jax.Array, entries: jax.Array, start: int) -> dict[int, jax.Array]:
    return apart.reach(read(model, image), start, entries)


@partial(jax.jit, static_argnames=("start", "ascent"))
def _rows(
    model: Classifier,
    regions: Region,
    known: Known,
    rows: jax.Array,
    start: int,
    steps: Any,
    shares: dict[int, jax.Array] | None,
    ascent: bool,
) -> Bounds:
    """Bounds [B, R] of the entries rows [B, R, 1], or [B, R, M] of [B, R, M] with the shares of each in a row."""

    def one(region, known, rows):
        graph = read(model, region.low)
        unit = ones_at(rows, graph.nodes[start].shape, region.low.dtype)
        if ascent:
            both = jnp.concatenate([unit, -unit])
            found, _ = slopes.optimised(graph, start, both, known, region, steps, RATE, shares=shares)
        else:
            lines = linear.lines_of(graph, known, region.box, {})
            found = linear.least(graph, start, unit, lines, region, shares, signed=True)
        return Bounds(found[: len(rows)], -found[len(rows) :])

    return jax.vmap(one)(regions, known, rows)


@jax.jit
def ascended_margins(model: Classifier, regions: Region, rows: jax.Array, known: Known, steps: Any) -> jax.Array:
    """[B, R]: as `linear_margins`, the best of `steps` steps of ascent on the slopes below ReLUs, row by row."""

    def one(region, rows, known):
        graph = read(model, region.low)
        return slopes.optimised(graph, graph.output, rows, known, region, steps, RATE)[0]

    return jax.vmap(one)(regions, rows, known)


def ones_at(rows: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """[R, S]: ones at the flat entries rows [R, M], of which -1 is none."""
    size = int(np.prod(shape))
    where = jnp.where(rows < 0, size, rows)
    flat = jnp.zeros((len(rows), size), dtype).at[jnp.arange(len(rows))[:, None], where].set(1, mode="drop")
    return flat.reshape(len(rows), *shape)


def _dtype(model: Classifier) -> Any:
    leaves = [leaf.dtype for leaf in jax.tree.leaves(model.params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.result_type(*leaves) if leaves else jnp.float32


def in_turn(
    model: Classifier, regions: Region, rows: np.ndarray, steps: int, inner_steps: int
) -> tuple[np.ndarray, Known]:
    """(margins [B, R], bounds of the needed nodes): intervals, CROWN, then ascent on what CROWN leaves open.

    Each is at least as good as the one before; images whose margins CROWN proves are not ascended.
    """
    found, known = plain(model, regions, rows)
    return ascended(model, regions, rows, found, known, np.flatnonzero(~(found.min(-1) > 0)), steps, inner_steps)


def plain(model: Classifier, regions: Region, rows: np.ndarray) -> tuple[np.ndarray, Known]:
    """(margins [B, R], bounds of the needed nodes) by intervals and by CROWN, the better of both."""
    known = first_layers(model, regions)
    found = np.asarray(interval_margins(model, regions, rows, known))
    by_lines = crown(model, regions, known)
    found = np.fmax(found, linear_margins(model, regions, rows, by_lines))
    return found, {number: interval.intersected(known[number], by_lines[number]) for number in known}


def ascended(
    model: Classifier,
    regions: Region,
    rows: np.ndarray,
    found: np.ndarray,
    known: Known,
    which: np.ndarray,
    steps: int,
    inner_steps: int,
) -> tuple[np.ndarray, Known]:
    """What `plain` found, with ascent on the slopes of the images `which`."""
    found = np.array(found)
    if not len(which):
        return found, known
    those = np.resize(which, power_of_two(len(which)))
    part = jax.tree.map(lambda leaf: leaf[those], (regions, rows, known))
    better = crown(model, part[0], part[2], tighter=True, steps=inner_steps)
    margins = np.asarray(ascended_margins(model, part[0], part[1], better, steps))[: len(which)]
    found[which] = np.fmax(found[which], margins)
    known = {k: Bounds(*(_put(b, which, n) for b, n in zip(known[k], better[k], strict=True))) for k in known}
    return found, known


def _put(before: jax.Array, where: np.ndarray, new: jax.Array) -> np.ndarray:
    out = np.array(before)
    out[where] = np.asarray(new)[: len(where)]
    return out
