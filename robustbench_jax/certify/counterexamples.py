"""Counterexamples of a specification: projected gradient descent on its violation, inside the exact boxes.

Reference: Madry et al., ICLR 2018, arXiv:1706.06083 (PGD with restarts). A case is met where
max_k(rows[k] . logits + offsets[k]) <= 0; that maximum goes down. Nothing counts before the deployed model was asked
once more about the float32 image: inside the float64 box, every row at most 0, no tolerance.
Shapes: P cases, K rows, C classes, D input shape.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.certify.vnnlib import Case
from robustbench_jax.keys import per_example, stream
from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.runtime import Runtime, power_of_two
from robustbench_jax.types import Classifier

RESTARTS, STEPS = 8, 60
FIRST, LAST = 0.25, 0.005  # length of the first and of the last step, as a part of the box


def search(
    key: jax.Array, model: Classifier, cases: list[Case], shape: tuple[int, ...], deadline: float, runtime: Runtime
) -> np.ndarray | None:
    """A judged counterexample float32[D] of any case, None where none is found. deadline: of time.perf_counter()."""
    boxes = [inwards(case) for case in cases]
    ids = np.array([i for i, (low, high) in enumerate(boxes) if (low <= high).all()], int)
    width = min(max(1, runtime.batch // RESTARTS), power_of_two(len(ids)))
    for part in np.split(ids, range(width, len(ids), width)):
        if len(part) and time.perf_counter() < deadline:
            padded = np.resize(part, width)  # one width, one program
            found = _descended(key, model, cases, boxes, padded, shape, deadline, runtime)
            if found is not None:
                return found
    return None


def judged(model: Classifier, case: Case, x: np.ndarray, runtime: Runtime) -> np.ndarray | None:
    """The point nearest to x [D] that float32 has in the case's box, if it is a counterexample of the model."""
    low, high = inwards(case)
    x = np.clip(np.asarray(x, np.float32), low.reshape(x.shape), high.reshape(x.shape))
    return x if case.met(x.reshape(-1), predict(model, x[None], runtime)[0]) else None


def inwards(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The largest box of float32 numbers inside the case's; empty where float32 has no number there."""
    return _rounded(case.low, np.inf), _rounded(case.high, -np.inf)


def outwards(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The smallest box of float32 numbers around the case's."""
    return _rounded(case.low, -np.inf), _rounded(case.high, np.inf)


def halfspaces(cases: list[Case]) -> tuple[np.ndarray, np.ndarray]:
    """(rows float32[P, K, C], offsets float32[P, K]); a case of fewer rows has some of them twice."""
    count = max(1, *(len(case.rows) for case in cases))
    rows, offsets = [], []
    for case in cases:
        which = np.resize(np.arange(len(case.rows)), count) if len(case.rows) else None
        rows.append(np.zeros((count, case.rows.shape[1])) if which is None else case.rows[which])
        offsets.append(np.full(count, -1.0) if which is None else case.offsets[which])  # no row: always met
    return np.array(rows, np.float32), np.array(offsets, np.float32)


def with_means(rows: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The half-spaces of each case and, of several, their mean [P, K + 1]: it is at most the largest of them, and a
    bound of it may exceed 0 where rows that cannot be met together could each be met alone.
    """
    if rows.shape[1] == 1:
        return rows, offsets
    return tuple(np.concatenate([each, each.mean(1, keepdims=True)], axis=1) for each in (rows, offsets))


def _rounded(values: np.ndarray, towards: float) -> np.ndarray:
    """float32, rounded in one direction."""
    near = values.astype(np.float32)
    wrong = near < values if towards > 0 else near > values
    return np.where(wrong, np.nextafter(near, np.float32(towards)), near)


def _descended(key, model, cases, boxes, ids, shape, deadline, runtime) -> np.ndarray | None:
    low, high = (np.stack([boxes[i][side] for i in ids]).reshape(-1, *shape) for side in range(2))
    problems = (low, high, *halfspaces([cases[i] for i in ids]))
    x = _starts(per_example(stream(key, "counterexamples"), ids), low, high)
    for step in range(STEPS + 1):
        value, onward = _step(model, problems, x, FIRST * (LAST / FIRST) ** (step / STEPS))
        value = np.asarray(value)
        case, restart = np.unravel_index(np.argmin(value), value.shape)
        if value[case, restart] <= 0:
            found = judged(model, cases[ids[case]], np.asarray(x[case, restart]), runtime)
            if found is not None:
                return found
        if time.perf_counter() > deadline:
            return None
        x = onward
    return None


@jax.jit
def _starts(keys: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """[P, RESTARTS, D]: the middle of each box, and points drawn from it."""

    def one(key, low, high):
        share = jax.random.uniform(key, (RESTARTS, *low.shape)).at[0].set(0.5)
        return jnp.clip(low + share * (high - low), low, high)

    return jax.vmap(one)(keys, low, high)


@jax.jit
def _step(model: Classifier, problems: tuple, x: jax.Array, length: float) -> tuple[jax.Array, jax.Array]:
    """(violations [P, RESTARTS] of x, where a step against their gradients leads)."""

    def one(low, high, rows, offsets, x):
        value, slope = jax.value_and_grad(lambda x: jnp.max(rows @ model(x) + offsets))(x)
        return value, jnp.clip(x - length * (high - low) * jnp.sign(slope), low, high)

    return jax.vmap(jax.vmap(one, (None, None, None, None, 0)))(*problems, x)
