"""Halving: boxes of few inputs are cut into smaller and smaller ones until each is proved by bounds of its own.

References: Wang et al., USENIX Security 2018, arXiv:1804.10829 (ReluVal: halving, and which input to halve); bounds of
each box by CROWN through every layer, Zhang et al., NeurIPS 2018, arXiv:1811.00866. A smaller box tightens every layer,
so that networks of a handful of inputs (ACAS Xu has five) need no split of any neuron; it is hopeless for images.
A case asks whether max_k(rows[k] . logits + offsets[k]) > 0 on all of its box. The points where the lines of a box are
least, and its middle, are tried on the model: one of them may be a counterexample.
Shapes: P cases, K rows, C classes, D input shape, I inputs, B boxes of one call.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.certify import descent
from robustbench_jax.certify.bounding import Structure
from robustbench_jax.ops.bounds import interval, linear
from robustbench_jax.ops.bounds.graph import Graph, Node, read
from robustbench_jax.ops.bounds.regions import Bounds, Region, boxed
from robustbench_jax.ops.runtime import power_of_two
from robustbench_jax.types import Classifier

FEW = 16  # inputs, at most
LEAST, MOST = 16, 512  # boxes of one call
MEMORY = 2**27  # bytes of the coefficients of one call, which bound how many boxes it has
WIDE = 0.1  # what the width of an input counts beside the slope of the bound along it, which may vanish by symmetry
POINTS, DESCENT = 8, 10  # boxes of each call in which a counterexample is looked for, and steps from the best point


class Boxes(NamedTuple):
    """lower float32[B]: what is proved; case int32[B]; low, high float32[B, I]; gain float32[B, I]: how much of the
    bound's slope lies along each input.
    """

    lower: np.ndarray
    case: np.ndarray
    low: np.ndarray
    high: np.ndarray
    gain: np.ndarray

    def taken(self, which: np.ndarray) -> "Boxes":
        return Boxes(*(leaf[which] for leaf in self))


def suits(form: Structure) -> bool:
    """Whether boxes of a model's input are few enough in dimension, and its layers small enough, to be halved."""
    return int(np.prod(form.shapes[0])) <= FEW and _width(form) >= LEAST


class Halving:
    """The state of a search over the boxes low, high [P, I] of cases with rows [P, K, C], offsets [P, K] and slack [P].

    lower float[P]: what is proved of each case so far; attacked: whether a case has a counterexample, x_adv [D],
    `which` says which; boxes: how many were bounded.
    """

    def __init__(self, model: Classifier, form: Structure, low, high, rows, offsets, slack):
        self.model, self.shape, self.width = model, form.shapes[0], _width(form)
        self.asked = (np.asarray(rows, np.float32), np.asarray(offsets, np.float32))
        self.slack, self.whole = slack, np.maximum(high - low, np.finfo(np.float32).tiny)
        self.done, self.stuck = (np.full(len(slack), np.inf) for _ in range(2))  # of proved boxes; of those too small
        self.attacked, self.x_adv, self.which, self.boxes = False, np.zeros(self.shape, np.float32), -1, 0
        none = np.zeros((0, *low.shape[1:]), np.float32)
        self.pool = Boxes(none[:, 0], none[:, 0].astype(np.int32), none, none, none)
        self.bound(np.arange(len(slack), dtype=np.int32), low, high, np.full(len(slack), -np.inf, np.float32))

    @property
    def open(self) -> bool:
        """Whether all cases may still be proved."""
        return len(self.pool.lower) > 0 and not self.attacked and bool((self.stuck == np.inf).all())

    @property
    def lower(self) -> np.ndarray:
        """float[P]; of a case with a counterexample -inf."""
        found = np.minimum(self.done, self._open())
        if self.attacked:
            found[self.which] = -np.inf
        return found

    @property
    def proved(self) -> np.ndarray:
        """bool[P]."""
        proved = self._open() == np.inf
        if self.attacked:
            proved[self.which] = False
        return proved

    def split(self) -> None:
        """Halves the worst boxes, as many as one call takes; while they are few, along several inputs."""
        count = min(len(self.pool.lower), self.width // 2)
        order = np.argpartition(self.pool.lower, count - 1)
        parts, self.pool = self.pool.taken(order[:count]), self.pool.taken(order[count:])
        for _ in range((self.width // count).bit_length() - 1):
            parts = self.halved(parts)
        if len(parts.case):
            self.bound(parts.case, parts.low, parts.high, parts.lower)

    def halved(self, parts: Boxes) -> Boxes:
        """Both halves of each box, along the input of which its bound depends most; what has none is given up."""
        middle = parts.low / 2 + parts.high / 2
        can = (parts.low < middle) & (middle < parts.high)
        share = (parts.high - parts.low) / self.whole[parts.case]
        most = np.maximum(parts.gain.max(-1, keepdims=True), np.finfo(np.float32).tiny)
        score = np.where(can, parts.gain / most + WIDE * share, -1.0)
        at = score.argmax(-1)
        lost = ~can.any(-1)
        np.minimum.at(self.stuck, parts.case[lost], parts.lower[lost])
        parts, at, middle = parts.taken(~lost), at[~lost], middle[~lost]
        row = np.arange(len(at))
        gain = parts.gain.copy()
        gain[row, at] /= 2
        high, low = parts.high.copy(), parts.low.copy()
        high[row, at] = low[row, at] = middle[row, at]
        first, second = parts._replace(high=high, gain=gain), parts._replace(low=low, gain=gain)
        return Boxes(*map(np.concatenate, zip(first, second, strict=True)))

    def bound(self, case: np.ndarray, low: np.ndarray, high: np.ndarray, before: np.ndarray) -> None:
        """Bounds boxes, drops what is proved, keeps the rest, and tries points of the worst."""
        found = []
        for at in range(0, len(case), self.width):
            part = np.arange(at, min(at + self.width, len(case)))
            filled = np.resize(part, self.width)  # one width, one program
            corners = (side[filled].reshape(-1, *self.shape) for side in (low, high))
            out = _bounded(self.model, *corners, *(leaf[case[filled]] for leaf in self.asked))
            found.append([np.asarray(leaf)[: len(part)] for leaf in out])
        lower, gain, value, x = (np.concatenate(leaves) for leaves in zip(*found, strict=True))
        self.boxes += len(case)
        lower = np.fmax(before, lower)
        proved = lower > self.slack[case]
        np.minimum.at(self.done, case[proved], lower[proved])
        left = np.flatnonzero(~proved)
        new = Boxes(lower[left], case[left], low[left], high[left], gain.reshape(low.shape)[left])
        self.pool = Boxes(*(np.concatenate(pair) for pair in zip(self.pool, new, strict=True)))
        if len(left):
            nearest = left[np.argsort(value[left])[:POINTS]]
            self.tried(case[nearest], low[nearest], high[nearest], x[nearest])

    def tried(self, case: np.ndarray, low: np.ndarray, high: np.ndarray, x: np.ndarray) -> None:
        """Goes down a short way from points [B, D] inside their boxes."""
        case, low, high, x = (np.resize(leaf, (POINTS, *leaf.shape[1:])) for leaf in (case, low, high, x))
        regions = jax.vmap(boxed)(*(jnp.asarray(side).reshape(-1, *self.shape) for side in (low, high)))
        rows, offsets = (leaf[case] for leaf in self.asked)
        value, x = descent.descended(self.model, regions, jnp.asarray(x), rows, offsets, DESCENT)
        if value.min() <= 0:
            at = int(value.argmin())
            self.attacked, self.which, self.x_adv = True, int(case[at]), x[at]

    def _open(self) -> np.ndarray:
        """float[P]: the least bound of each case's boxes that are not proved, inf for none."""
        found = self.stuck.copy()
        np.minimum.at(found, self.pool.case, self.pool.lower)
        return found


def _width(form: Structure) -> int:
    """Boxes of one call: a power of two whose coefficients fit."""
    rows = max((int(np.prod(form.shapes[number])) for number in form.needed), default=1)
    fits = MEMORY // (8 * rows * form.widest)
    return min(MOST, power_of_two(fits + 1) // 2)


@jax.jit
def _bounded(model: Classifier, low, high, rows, offsets):
    """(lower [B], gain [B, D], value [B], x [B, D]) of boxes low, high [B, D]: the best bound of any row and of their
    mean, how far it moves along each input of the box, and the better of two points.
    """

    def one(low, high, rows, offsets):
        region, graph = boxed(low, high), read(model, low)
        bounds, lines, wanted = [region.box], {}, linear.needed(graph)
        for number, node in enumerate(graph.nodes[1:], start=1):
            found = interval.RULES[node.kind](node, *(bounds[i] for i in node.inputs))
            if number in wanted and not _exact(node):
                found = interval.intersected(found, _by_lines(graph, number, lines, region))
            bounds.append(found)
            if node.kind in linear.LINES:
                lines[number] = linear.LINES[node.kind](node, [bounds[i] for i in node.inputs], None)
        asked = jnp.concatenate([rows, rows.mean(0, keepdims=True)])
        shifts = jnp.concatenate([offsets, offsets.mean(keepdims=True)])
        carried, offset = linear.carried(graph, graph.output, asked, lines)
        a = carried.get(0, jnp.zeros((len(asked), *low.shape), low.dtype))
        bound = offset + region.least(a) + shifts
        best = jnp.argmax(bound)
        points = jnp.stack([region.lowest(a[best]), region.x])
        values = jax.vmap(lambda x: jnp.max(rows @ model(x) + offsets))(points)
        better = jnp.argmin(values)
        return bound[best], jnp.abs(a[best]) * (high - low), values[better], points[better]

    return jax.vmap(one)(low, high, rows, offsets)


def _exact(node: Node) -> bool:
    """Whether lines cannot better an interval: each entry is a multiple of one entry of the input."""
    return node.kind == "affine" and set(node.inputs) == {0} and node.mixing <= 1


def _by_lines(graph: Graph, number: int, lines: dict, region: Region) -> Bounds:
    """Bounds of all entries of a node by CROWN."""
    shape = graph.nodes[number].shape
    size = int(np.prod(shape))
    unit = jnp.eye(size, dtype=region.low.dtype).reshape(size, *shape)
    found = linear.least(graph, number, unit, lines, region, signed=True)
    return Bounds(found[:size].reshape(shape), -found[size:].reshape(shape))
