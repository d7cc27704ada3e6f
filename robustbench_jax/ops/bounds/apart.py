"""Rows that go back as one: those whose entries depend on different entries of every node below.

Lines and sums of linear bounds work entry by entry, so rows of coefficients that never meet may share one array and be
told apart where they are summed. Entries that depend on the very same entries (the channels of a pixel) form a site;
sites that have nothing in common get the same colour, and a pass carries one entry of each site of a colour. A
convolution needs as many colours as its receptive field has pixels, in steps of its stride; a dense layer is one site.
Shapes: R rows; node shapes S, flat; K sites, M of them in one colour. One example, host code but for `reach`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.bounds.graph import Graph

AT_ONCE = 64  # entries whose reach is found together; the first of them tell whether there is more than one site

Reach = dict[int, np.ndarray]


class Sites(NamedTuple):
    """Of a node: site int[S] of each entry, -1 where it was not asked for; colours: for each the numbers of its sites;
    reach: {node: uint8 [K, S / 8]} what the entries of a site depend on, in bits.
    """

    site: np.ndarray
    colours: list[np.ndarray]
    reach: Reach

    @property
    def most(self) -> int:
        """M: sites in the largest colour."""
        return max(map(len, self.colours))

    def shares(self, colour: np.ndarray, sizes: Mapping[int, int]) -> dict[int, np.ndarray]:
        """{node: float32 [M, S]}: ones at what is reached from each site of a colour; M is that of the largest."""
        pad = ((0, self.most - len(colour)), (0, 0))
        return {
            number: np.pad(np.unpackbits(held[colour], axis=1, count=sizes[number]), pad).astype(np.float32)
            for number, held in self.reach.items()
        }

    def passes(self, colour: np.ndarray, matter: np.ndarray) -> np.ndarray:
        """int [B, R, M]: those of the entries that matter [B, S] that each row of a colour carries, -1 for none."""
        picked = [matter & (self.site == site) for site in colour]
        out = np.full((len(matter), max(int(p.sum(1).max()) for p in picked), self.most), -1, np.int32)
        for slot, chosen in enumerate(picked):
            image, entry = np.nonzero(chosen)
            out[image, (np.cumsum(chosen, 1) - 1)[image, entry], slot] = entry
        return out


def reach(graph: Graph, start: int, entries: jax.Array) -> dict[int, jax.Array]:
    """{node: bool [R, S]}: what each of the flat entries [R] of the node `start` depends on; of none for -1."""
    shape = graph.nodes[start].shape
    waiting, found = {start: jax.nn.one_hot(entries, int(np.prod(shape))).reshape(-1, *shape)}, {}
    for number in range(start, -1, -1):
        if number not in waiting:
            continue
        node, found[number] = graph.nodes[number], waiting.pop(number) > 0
        mark = found[number].astype(jnp.float32)
        parts = [mark] * len(node.inputs)
        if node.kind == "affine":  # radii of one: an absolute value has no derivative at zero
            ones = [jnp.ones(graph.nodes[i].shape) for i in node.inputs]
            out, back = jax.vjp(node.spread, *ones)
            parts = jax.vmap(back)(mark.astype(out.dtype))  # float64 weights spread in float64
        for source, part in zip(node.inputs, parts, strict=True):
            waiting[source] = waiting[source] + part if source in waiting else part
    return {number: marks.reshape(len(entries), -1) for number, marks in found.items()}


def sites(reach_of: Callable[[np.ndarray], Reach], entries: np.ndarray, start: int, size: int) -> Sites | None:
    """The sites of the entries of the node `start` that has `size` of them; None where no two seem to be apart.

    reach_of(int[AT_ONCE]): the `reach` of so many entries.
    """
    sample = _packed(reach_of(entries[np.linspace(0, len(entries) - 1, AT_ONCE).astype(int)]))
    below = np.concatenate([bits for number, bits in sample.items() if number != start], 1)
    if np.all(np.any(below[:, None] & below, -1)):
        return None
    numbers: dict[bytes, int] = {}
    site, reached = np.full(size, -1, np.int32), []
    for at in range(0, len(entries), AT_ONCE):
        part = entries[np.minimum(np.arange(at, at + AT_ONCE), len(entries) - 1)]
        packed = _packed(reach_of(part))
        del packed[start]
        for entry, *bits in zip(part, *packed.values(), strict=True):
            key = b"".join(b.tobytes() for b in bits)
            if key not in numbers:
                numbers[key] = len(numbers)
                reached.append(bits)
            site[entry] = numbers[key]
    below = {number: np.stack(bits) for number, bits in zip(packed, zip(*reached, strict=True), strict=True)}
    colours = _coloured(np.concatenate(list(below.values()), 1))
    return Sites(site, colours, below | _packed({start: np.arange(len(numbers))[:, None] == site}))


def _packed(found: Reach) -> Reach:
    """uint8 [R, S / 8] by node."""
    return {number: np.packbits(marks, axis=1) for number, marks in found.items()}


def _coloured(packed: np.ndarray) -> list[np.ndarray]:
    """Numbers of sites by colour: each site gets the first colour in which it meets nobody."""
    taken = np.zeros_like(packed)
    colours: list[list[int]] = []
    for site, bits in enumerate(packed):
        free = np.flatnonzero(~np.any(taken[: len(colours)] & bits, 1))
        if not len(free):
            colours.append([])
        colour = int(free[0]) if len(free) else len(colours) - 1
        colours[colour].append(site)
        taken[colour] |= bits
    return [np.array(colour) for colour in colours]
