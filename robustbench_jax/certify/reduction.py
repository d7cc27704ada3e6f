"""From a model, a region and bounds in it to the reduced network that its domains share, and rows made of its neurons.

Rows go back through the graph as in `crown`, a chunk at a time, with every operation that is not linear in the region
left out; what reaches it is its column. Shapes: those of ops/bounds/reduced.py; node shapes S, R rows.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.certify import bounding
from robustbench_jax.ops.bounds import linear
from robustbench_jax.ops.bounds.graph import read
from robustbench_jax.ops.bounds.reduced import Reduced
from robustbench_jax.ops.bounds.regions import Bounds, Region
from robustbench_jax.ops.runtime import power_of_two
from robustbench_jax.types import Classifier

SMALLEST = 64  # neurons that a group has room for: sizes are few, as each is compiled once
CHUNK = 64  # rows that go back at once


@dataclass(frozen=True)
class Group:
    """The neurons of one operation: flat entries [n] of it; source: the node they read, its input number `slot`."""

    operation: int
    slot: int
    source: int
    piecewise: bool
    entries: np.ndarray

    @property
    def size(self) -> int:
        """With filling: a power of two, or three quarters of one."""
        whole = power_of_two(max(len(self.entries), SMALLEST))
        return whole * 3 // 4 if SMALLEST < len(self.entries) <= whole * 3 // 4 else whole


class Reduction:
    """The groups of one image, and its reduced network."""

    def __init__(self, model: Classifier, region: Region, known: bounding.Known):
        self.model, self.region, self.known = model, region, known
        self.form = bounding.structure(model, region.low.shape)
        self.groups = self.grouped()

    def grouped(self) -> list[Group]:
        found = []
        for number, kind, inputs in self.form.operations:
            piecewise = kind in ("relu", "maximum")
            for slot in range(2) if kind == "product" else (len(inputs) - 1,):
                low, high = self.bounds(inputs[slot])
                entries = np.flatnonzero(~((low >= 0) | (high <= 0))) if piecewise else np.arange(low.size)
                if len(entries):
                    found.append(Group(number, slot, inputs[slot], piecewise, entries))
        return found

    def bounds(self, node: int) -> Bounds:
        """Of a node's flat entries."""
        found = self.known[node] if node else self.region.box
        return Bounds(*(np.asarray(side).ravel() for side in found))

    @property
    def entries(self) -> int:
        """Of all matrices."""
        before, total = 1 + self.region.low.size, 0
        for group in self.groups:
            total, before = total + group.size * before, before + group.size
        return total

    def rows(self, start: int, rows: np.ndarray, groups: int) -> np.ndarray:
        """[R, 1 + D + neurons of that many groups]: rows [R, S] of a node as functions of the input and neurons."""
        filled = np.zeros((power_of_two(len(rows)), *rows.shape[1:]), np.float32)
        filled[: len(rows)] = rows
        offset, at_input, seen = _reached(self.model, self.region, self.known, filled, start)
        columns = [np.asarray(offset)[:, None], np.asarray(at_input).reshape(len(filled), -1)]
        for group in self.groups[:groups]:
            column = np.zeros((len(filled), group.size), np.float32)
            if group.operation in seen:
                reached = np.asarray(seen[group.operation]).reshape(len(filled), -1)
                column[:, : len(group.entries)] = reached[:, group.entries]
            columns.append(column)
        return np.concatenate(columns, 1)[: len(rows)]

    def matrix(self, number: int) -> np.ndarray:
        """What a group of neurons reads, with rows of zeros for its filling."""
        group = self.groups[number]
        shape, parts = self.form.shapes[group.source], []
        for entries in np.split(group.entries, range(CHUNK, len(group.entries), CHUNK)):
            unit = np.zeros((CHUNK, int(np.prod(shape))), np.float32)
            unit[np.arange(len(entries)), entries] = 1
            parts.append(self.rows(group.source, unit.reshape(-1, *shape), number)[: len(entries)])
        found = np.concatenate(parts)
        return np.pad(found, ((0, group.size - len(found)), (0, 0)))

    def reduced(self) -> Reduced:
        """The network. Lines are those of the known bounds."""
        lines = jax.tree.map(np.asarray, _lines(self.model, self.region, self.known))
        names = [name for name in Reduced.__dataclass_fields__ if name not in ("matrices", "region")]
        parts = {name: [np.zeros(0, bool if name == "free" else np.float32)] for name in names}
        for group in self.groups:
            of = lines[group.operation]
            first = group.slot == 0 or group.piecewise
            low, high = self.bounds(group.source)
            values = {
                "below": of.low[group.slot],
                "above": of.high[group.slot],
                "below_offset": of.low_offset if first else 0.0,
                "above_offset": of.high_offset if first else 0.0,
                "free": np.asarray(group.piecewise),
                "low": low.reshape(self.form.shapes[group.source]),
                "high": high.reshape(self.form.shapes[group.source]),
            }
            for name, value in values.items():
                full = np.broadcast_to(np.asarray(value), self.form.shapes[group.operation]).ravel()
                filling = (0, group.size - len(group.entries))
                parts[name].append(np.pad(full[group.entries], filling))
        joined = {name: jnp.asarray(np.concatenate(part)) for name, part in parts.items()}
        matrices = [jnp.asarray(self.matrix(number)) for number in range(len(self.groups))]
        flat = Region(*(jnp.ravel(x) for x in (self.region.low, self.region.high, self.region.x)), *self.rest)
        return Reduced(matrices, **joined, region=flat)

    @property
    def rest(self) -> tuple:
        return self.region.eps, self.region.norm


@partial(jax.jit, static_argnames="start")
def _reached(model: Classifier, region: Region, known: bounding.Known, rows: jax.Array, start: int):
    """(constants [R], coefficients of the input [R, D], and of operations by number) of rows of the node `start`."""
    graph = read(model, region.low)
    seen: dict[int, jax.Array] = {}

    def watch(number, a):
        if graph.nodes[number].kind in linear.LINES:
            seen[number] = a
        return a

    found, offset = linear.carried(graph, start, rows, _linear(graph, region, known), extra=watch)
    nothing = jnp.zeros((len(rows), *graph.nodes[0].shape), rows.dtype)
    return offset, found.get(0, nothing), seen


def _linear(graph, region: Region, known: bounding.Known) -> dict[int, linear.Lines]:
    """Lines of what is linear in the region; of other operations lines of nothing."""
    have = {0: region.box} | dict(known)
    lines = {}
    for number, node in enumerate(graph.nodes):
        if node.kind in linear.LINES:
            zero, one = jnp.zeros(node.shape), jnp.ones(node.shape)
            slopes = (zero,) * len(node.inputs)
            if node.kind in ("relu", "maximum"):
                on = (have[node.inputs[-1]].low >= 0).astype(zero.dtype)
                slopes = (on,) if node.kind == "relu" else (zero, one, on)
            lines[number] = linear.Lines(slopes, 0.0, slopes, 0.0)
    return lines


@jax.jit
def _lines(model: Classifier, region: Region, known: bounding.Known) -> dict[int, linear.Lines]:
    return linear.lines_of(read(model, region.low), known, region.box, {})
