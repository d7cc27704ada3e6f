"""Runtime: what changes the speed and not the answer, and how arrays are laid over devices.

Shapes: N examples, W rows of one compiled call.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import jax
import numpy as np

from robustbench_jax.types import Classifier, UserError

NARROWEST = 8  # a bucket does not shrink below this: narrower ones save nothing and round differently
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of glibc's mallopt
MAPS, ALLOWED = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


@dataclass(frozen=True)
class Runtime:
    """None: chosen by platform.

    width: examples in one bucket, rounded up to a power of two. chunk: steps between two looks at what is finished, at
    most; they begin with one and double while nothing finishes. devices: how many local devices share the bucket.
    """

    width: int | None = None
    chunk: int | None = None
    devices: int | None = None

    def __post_init__(self):
        for name in ("width", "chunk", "devices"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"runtime: {name} = {value!r} must be a whole number of at least 1")

    @property
    def batch(self) -> int:
        return power_of_two(self.width or (64 if on_cpu() else 512))

    def longest(self, model: Classifier, shape: tuple[int, ...]) -> int:
        """The most steps to run in one compiled loop, for images of this shape."""
        return self.chunk or (1 if on_cpu() and slow_in_loops(model, shape) else 8)

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The local devices that share the batch axis: the largest power of two of them that was asked for."""
        local = jax.local_devices()
        if self.devices is not None and self.devices > len(local):
            raise UserError(f"runtime: devices = {self.devices}: this machine has {len(local)}")
        count = 1 << ((self.devices or len(local)).bit_length() - 1)
        return _mesh(tuple(local[:count]))

    def fit(self, count: int) -> int:
        """The width of a bucket for `count` rows."""
        return min(self.batch, max(power_of_two(count), NARROWEST, self.mesh.size))


@cache
def _mesh(devices: tuple) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(devices), ("batch",))


def slow_in_loops(model: Classifier, shape: tuple[int, ...]) -> bool:
    """Whether the model has a plain XLA convolution: on CPU those take a slow path in a compiled loop
    (jax-ml/jax#12868); those of ops/layers.py do not.
    """
    seen = jax.make_jaxpr(model.keyed(jax.random.key(0)))(jax.ShapeDtypeStruct(shape, np.float32))
    return "conv_general_dilated" in str(seen)


def make_room() -> None:
    """Drops compiled programs if the process holds half of the memory maps that Linux allows it.

    A program compiled for CPU holds some ten of them, and past the limit the compiler crashes: a sweep of a few hundred
    cells would get there.
    """
    if MAPS.exists() and ALLOWED.exists() and 2 * MAPS.read_bytes().count(b"\n") > int(ALLOWED.read_text()):
        jax.clear_caches()


@cache
def keep_memory() -> None:
    """Has glibc keep what arrays have used for the next ones. By default it gives large blocks back at once, and the
    system fills new ones with zeros: a third of the time of bounds on CPU.
    """
    if on_cpu() and sys.platform == "linux":
        with suppress(OSError, AttributeError):
            malloc = ctypes.CDLL("libc.so.6").mallopt
            for option, value in ((MMAP_THRESHOLD, 2**30), (TRIM_THRESHOLD, 2**31 - 1)):
                malloc(option, value)


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[Any], Any], items: Sequence, stop: Event | None = None) -> Iterator:
    """function of each item, in order, made in as many threads as there are cores. The first error is raised, whichever
    item it is of. After it, or where nobody asks on, no further item is begun; `stop` is set then, for what has begun
    to look at.
    """
    stop, failed = stop or Event(), []

    def guarded(item: Any) -> Any:
        if stop.is_set():
            raise InterruptedError
        try:
            return function(item)
        except BaseException as error:
            failed.append(error)
            stop.set()
            raise

    with ThreadPoolExecutor(min(cores(), len(items))) as pool:
        begun = [pool.submit(guarded, item) for item in items]
        try:
            for future in begun:
                future.exception()  # waits
                if failed:
                    raise failed[0]
                yield future.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def groups(count: int, most: int) -> list[slice]:
    """Neighbours among `count` in groups of at most `most`, nearly equal, and enough of them for every core."""
    number = min(-(-max(-(-count // max(most, 1)), 1) // cores()) * cores(), count)
    edges = np.linspace(0, count, number + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False)]


def placed(model: Classifier, runtime: Runtime, width: int) -> tuple[Classifier, Callable]:
    """The model on every device of the mesh, and a function that lays arrays [W, ...] over them."""
    keep_memory()
    mesh = runtime.mesh
    if mesh.size == 1 or width % mesh.size or _asks(model):
        return model, lambda tree: jax.device_put(tree, mesh.devices.flat[0])
    copy = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    return jax.device_put(model, copy), lambda tree: jax.device_put(tree, split)


def _asks(held: Any) -> bool:
    """Whether something in it asks the host, or elsewhere, inside a program: devices that wait for one another while
    one of them asks may wait for ever.
    """

    def asks(it: Any) -> bool:
        return getattr(it, "hosted", False) is True or (isinstance(it, Classifier) and it.remote)

    return any(asks(leaf) for leaf in jax.tree.leaves(held, is_leaf=asks))


def by_slices(function: Callable, arrays: list[np.ndarray], width: int) -> Any:
    """Applies a function to slices of `width` rows, the last one padded with its own last row; joins on the host."""
    count = len(arrays[0])
    parts = []
    for start in range(0, count, width):
        rows = np.minimum(np.arange(start, start + width), count - 1)
        parts.append(jax.tree.map(np.asarray, function(*(a[rows] for a in arrays))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def power_of_two(count: int) -> int:
    """The smallest power of two of at least `count`."""
    return 1 << max(count - 1, 0).bit_length()
