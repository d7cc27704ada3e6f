"""The nouns: what a model, a dataset, a problem, a state and a result are.

Shapes: N dataset, B batch, C classes, D input shape. Everything marked `@record` is a frozen dataclass and a JAX
pytree: fields annotated int, float, array or another record are traced (a new value compiles nothing), fields
annotated str, bool, tuple or callable are static (a new value compiles anew).
"""

import dataclasses
import hashlib
import types as python_types
import typing
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class UserError(ValueError):
    """What the user gave is wrong. The message is one line: the value, what is allowed, the nearest right one."""


def static(**options: Any) -> Any:
    """A dataclass field that is part of the compiled program, whatever its annotation."""
    return dataclasses.field(metadata={"static": True}, **options)


def record(cls: type) -> type:
    """Makes `cls` a frozen dataclass and a pytree; adds `.replace(**changes)`."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    meta = [f.name for f in dataclasses.fields(cls) if _is_static(f)]
    data = [f.name for f in dataclasses.fields(cls) if f.name not in meta]
    cls.replace = dataclasses.replace
    return _pytree(cls, data, meta)


def _pytree(cls: type, data: list[str], meta: list[str]) -> type:
    """Not `register_dataclass`: in JAX 0.10 and 0.11 the tree structures of two classes so registered compare
    equal where their static fields do, and now and then `jit` runs the program it compiled for the other class.
    """
    keys = [jax.tree_util.GetAttrKey(name) for name in data]

    def flatten(it):
        return [getattr(it, name) for name in data], tuple(getattr(it, name) for name in meta)

    def flatten_with_keys(it):
        values, static_values = flatten(it)
        return list(zip(keys, values, strict=True)), static_values

    def unflatten(static_values, values):
        it = object.__new__(cls)  # what was checked when it was made is not checked again, nor are tracers
        for name, value in (*zip(meta, static_values, strict=True), *zip(data, values, strict=True)):
            object.__setattr__(it, name, value)
        return it

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _is_static(field: dataclasses.Field) -> bool:
    if "static" in field.metadata:
        return field.metadata["static"]
    options = typing.get_args(field.type) if isinstance(field.type, python_types.UnionType) else (field.type,)
    return all((typing.get_origin(o) or o) in (str, bool, bytes, tuple, Callable, type(None)) for o in options)


@record
class Classifier:
    """A model: `model(x[D]) -> logits[C]` for one image in [0, 1]; normalisation happens inside.

    `net(params, x)` is a hashable callable, compared by value, and static; `params` is any pytree and traced, so two
    sets of weights share one compiled program.
    """

    net: Hashable = static()
    params: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.net(self.params, x)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images on the host: `x` uint8 [N, H, W, C], `y` int32 [N], the classes' names, and where they come from."""

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    name: str

    def __post_init__(self):
        object.__setattr__(self, "x", np.asarray(self.x))
        object.__setattr__(self, "y", np.asarray(self.y))

    def __len__(self) -> int:
        return len(self.y)

    def take(self, n: int | None) -> "Dataset":
        """The first `n` examples (all of them for None). Raises UserError where there are fewer."""
        if n is None:
            return self
        if not 0 < n <= len(self):
            raise UserError(f"examples = {n}: {self.name} has {len(self)}, so give 1 to {len(self)}")
        return dataclasses.replace(self, x=self.x[:n], y=self.y[:n])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shapes, images, labels and class names: what a record says it was measured on."""
        sha = hashlib.sha256(repr((self.x.shape, str(self.x.dtype), self.classes)).encode())
        sha.update(np.ascontiguousarray(self.x))
        sha.update(np.ascontiguousarray(self.y.astype(np.int32)))
        return sha.hexdigest()


@record
class Problem:
    """What does not change during one attack on ONE example.

    goal: "untargeted" (any class but `y`) or "targeted" (`target`, which is -1 where there is none).
    item: which work item of the attack this is (restart, target class), counted from 0.
    """

    model: Any
    budget: Any
    goal: str
    x: jax.Array
    y: jax.Array
    target: jax.Array
    item: jax.Array

    def adversarial(self, logits: jax.Array) -> jax.Array:
        """True where the goal is reached. Ties go to the lower class index, as `argmax` does."""
        predicted = jnp.argmax(logits)
        return predicted != self.y if self.goal == "untargeted" else predicted == self.target

    def objective(self, loss: Callable, logits: jax.Array) -> jax.Array:
        """The scalar that an attack maximises: loss at the true class, or minus the loss at the target class."""
        return loss(logits, self.y) if self.goal == "untargeted" else -loss(logits, self.target)


@record
class State:
    """Where one attack on one example stands. `done` means: `x_adv` reaches the goal. Attacks add their own fields."""

    x_adv: jax.Array
    done: jax.Array
    t: jax.Array
    forwards: jax.Array
    gradients: jax.Array

    @classmethod
    def at(cls, x_adv: jax.Array, **own: Any) -> "State":
        zero = jnp.zeros((), jnp.int32)
        return cls(x_adv=x_adv, done=jnp.zeros((), bool), t=zero, forwards=zero, gradients=zero, **own)

    def move(self, x_adv: jax.Array, *, done: Any = False, forwards: int = 1, gradients: int = 1, **own: Any):
        """One step on: `forwards` and `gradients` are the model evaluations that this step took."""
        return self.replace(
            x_adv=jnp.where(done, self.x_adv, x_adv),
            done=self.done | done,
            t=self.t + 1,
            forwards=self.forwards + forwards,
            gradients=self.gradients + gradients,
            **own,
        )


class EvasionAttack:
    """What a registered evasion attack is: `init(key, problem) -> State` and `step(key, problem, state) -> State`.

    steps: how many steps one work item may take. items: how many work items (restarts, target classes) an example
    has at most; the first that succeeds ends the example. goal: "untargeted", or "targeted" with a method
    `target(key, logits, y)` that chooses the class.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    goal = "untargeted"
    items = 1

    @property
    def access(self) -> str:
        return self.facts["access"]


def require_positive(owner: str, **values: Any) -> None:
    """UserError for a number that is not positive; traced values pass."""
    for name, value in values.items():
        if isinstance(value, int | float) and not value > 0:
            raise UserError(f"{owner}: {name} = {value} must be greater than 0")


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number with its sample size, 95% interval and definition. `value` is None where n = 0."""

    value: float | None
    n: int
    low: float | None
    high: float | None
    definition: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a threat's procedure found: metrics by name, and per-example arrays by name."""

    metrics: dict[str, Metric]
    arrays: dict[str, np.ndarray]
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    papers: tuple[str, ...] = ()
