"""The nouns: what a model, a dataset, a problem, a state and a result are.

Shapes: N dataset, B batch, C classes, D input shape. Everything marked `@record` is a frozen dataclass and a JAX
pytree (pytrees.py).
"""

import dataclasses
import hashlib
from collections.abc import Callable, Hashable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.pytrees import record, static


class UserError(ValueError):
    """What the user gave is wrong. The message is one line: the value, what is allowed, the nearest right one."""


@record
class Classifier:
    """A model: `model(x[D]) -> logits[C]` for one image in [0, 1]; normalisation happens inside.

    `net(params, x)` is a hashable callable, compared by value, and static; `params` is any pytree and traced, so two
    sets of weights share one compiled program. A net with `stochastic = True` is a randomised model,
    `net(params, x, key)`: whoever calls it says with which key, through `keyed`. A defended net may also show its
    `twin`, and as `approximated` a net of the same forward pass, to the bit, through which gradients pass (for BPDA).
    """

    net: Hashable = static()
    params: Any
    key: Any = None

    @property
    def stochastic(self) -> bool:
        return getattr(self.net, "stochastic", False)

    @property
    def rejects(self) -> bool:
        """Whether it may give no answer: logits [C + 1], the last of them for that (models/rejecting.py)."""
        return getattr(self.net, "rejects", False)

    @property
    def remote(self) -> bool:
        """Whether it, or the undefended model inside, answers from elsewhere: no gradient, and answers have a price."""
        return getattr(self.twin.net, "remote", False)

    @property
    def twin(self) -> "Classifier":
        """The undefended model inside, where the net shows one as `twin(params) -> (net, params)`; else itself."""
        if not hasattr(self.net, "twin"):
            return self
        net, params = self.net.twin(self.params)
        return Classifier(net, params).twin

    def keyed(self, key: jax.Array) -> "Classifier":
        """The same model, drawing its randomness from `key`; itself where it has none."""
        return self.replace(key=key) if self.stochastic else self

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.net(self.params, x, self.key) if self.stochastic else self.net(self.params, x)


@dataclasses.dataclass(frozen=True, eq=False)
class Attribute:
    """Something private of each example: `values` int32 [N], the values' names, and the attribute's own.

    place: (first, last + 1) of the flattened pixels that hold it one-hot, 255 among 0, as a table's columns do; None
    where it is not part of what a model sees.
    """

    name: str
    values: np.ndarray
    names: tuple[str, ...]
    place: tuple[int, int] | None = None

    def rows(self, rows: np.ndarray) -> "Attribute":
        return dataclasses.replace(self, values=self.values[rows])

    def written(self, x: np.ndarray, value: int | None) -> np.ndarray:
        """x uint8 [N, H, W, C] with this value in its place; nothing there for None. Only where there is a place."""
        out = np.array(x).reshape(len(x), -1)
        out[:, slice(*self.place)] = 0
        if value is not None:
            out[:, self.place[0] + value] = 255
        return out.reshape(x.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images on the host: `x` uint8 [N, H, W, C], `y` int32 [N], the classes' names, and where they come from.

    attribute: what is private of each example, where that is known.
    """

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    name: str
    attribute: Attribute | None = None

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
        return self.rows(slice(n))

    def rows(self, rows: np.ndarray | slice) -> "Dataset":
        """The examples in the rows int [R], in their order, or where bool [N] is true."""
        private = None if self.attribute is None else self.attribute.rows(rows)
        return dataclasses.replace(self, x=self.x[rows], y=self.y[rows], attribute=private)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shapes, images, labels and class names, and over the attribute where there is one: what a record
        says it was measured on.
        """
        sha = hashlib.sha256(repr((self.x.shape, str(self.x.dtype), self.classes)).encode())
        sha.update(np.ascontiguousarray(self.x))
        sha.update(np.ascontiguousarray(self.y.astype(np.int32)))
        if self.attribute is not None:
            sha.update(repr((self.attribute.name, self.attribute.names, self.attribute.place)).encode())
            sha.update(np.ascontiguousarray(self.attribute.values.astype(np.int32)))
        return sha.hexdigest()


@record
class Problem:
    """What does not change during one attack on ONE example.

    An attack searches among points z of its budget; `logits(z)` are the model's answer to the image that z stands for
    (z itself in a norm ball, a moved image where z is a rotation). `origin` is the z that changes nothing.
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

    @property
    def origin(self) -> jax.Array:
        return self.budget.identity(self.x)

    def logits(self, z: jax.Array) -> jax.Array:
        """One forward evaluation [C]."""
        return self.model(self.budget.render(self.x, z))

    def adversarial(self, logits: jax.Array) -> jax.Array:
        """True where the goal is reached. Ties go to the lower class index, as `argmax` does."""
        predicted = jnp.argmax(logits)
        return predicted != self.y if self.goal == "untargeted" else predicted == self.target

    def objective(self, loss: Callable, logits: jax.Array) -> jax.Array:
        """The scalar that an attack maximises: loss at the true class, or minus the loss at the target class."""
        return loss(logits, self.y) if self.goal == "untargeted" else -loss(logits, self.target)


@record
class State:
    """Where one attack on one example stands. `done` means: `x_adv` reaches the goal. Attacks add their own fields.

    x_adv is a point z of the budget (see Problem). forwards and gradients count model evaluations; vanished counts the
    gradients that were exactly zero.
    """

    x_adv: jax.Array
    done: jax.Array
    t: jax.Array
    forwards: jax.Array
    gradients: jax.Array
    vanished: jax.Array

    @classmethod
    def at(cls, x_adv: jax.Array, *, forwards: int = 0, gradients: int = 0, **own: Any) -> "State":
        """The start; `forwards` and `gradients` are the model evaluations that finding it took."""
        zero, count = jnp.zeros((), jnp.int32), partial(jnp.asarray, dtype=jnp.int32)
        done = jnp.zeros((), bool)
        return cls(
            x_adv=x_adv, done=done, t=zero, forwards=count(forwards), gradients=count(gradients), vanished=zero, **own
        )

    def move(
        self,
        x_adv: jax.Array,
        *,
        done: Any = False,
        forwards: int = 1,
        gradients: int = 1,
        gradient: jax.Array | None = None,
        **own: Any,
    ):
        """One step on: `forwards` and `gradients` are the model evaluations that this step took.

        done: the current x_adv, not the given one, reaches the goal. gradient: what the model's gradient was, for the
        count of those that vanished.
        """
        vanished = 0 if gradient is None else jnp.all(gradient == 0).astype(jnp.int32)
        return self.replace(
            x_adv=jnp.where(done, self.x_adv, x_adv),
            done=self.done | done,
            t=self.t + 1,
            forwards=self.forwards + forwards,
            gradients=self.gradients + gradients,
            vanished=self.vanished + vanished,
            **own,
        )


class EvasionAttack:
    """What a registered evasion attack is: `init(key, problem) -> State` and `step(key, problem, state) -> State`.

    steps: how many steps one work item may take. items: how many work items (restarts, target classes) an example
    has at most; the first that succeeds ends the example. goal: "untargeted", or "targeted" with a method
    `target(key, logits, y)` that chooses the class. queries: None, or how many forward evaluations one work item may
    spend; the driver takes back a step that would spend more. minimal: x_adv is the smallest perturbation found
    (the origin where none was), whatever eps is, and the smallest over all items is kept. prepares: there is a method
    `prepare(key, model, budget, x, y, runtime) -> attack` that sees images x [N, D] (training images where there are
    some) before any is attacked; learns: what it finds depends on them. composite: `stages(budget)` gives several
    attacks.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    goal = "untargeted"
    items = 1
    queries = None
    minimal = False
    prepares = False
    composite = False

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...] | None:
        """Names of the budgets that it knows; None for all of its threat."""
        return self.facts.get("budgets")

    @property
    def learns(self) -> bool:
        return self.prepares

    @property
    def called(self) -> str:
        """What reports call it when it is one stage of several."""
        return self.registered[1]

    def against(self, model: Any, shape: tuple[int, ...]) -> "EvasionAttack":
        """What it becomes against this model of images of this shape; itself for all attacks but those that look at the
        defence first.
        """
        return self

    def stages(self, budget: Any) -> tuple["EvasionAttack", ...]:
        """What runs, one after another, each on the survivors of those before."""
        return (self,)

    def follow(self, budget: Any, done: tuple[Any, ...]) -> tuple["EvasionAttack", ...]:
        """What else runs once its stages, and what followed them, are done; done: their lines (ops/drive.py)."""
        return ()


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What a certifier proved of B images x with labels y, for every point of the budget around each at once.

    certified bool[B]: all those points get the class y. prediction int[B]: the class that the certified model gives x
    itself, -1 where it abstains (a smoothed model is not the one that it was made of). margin float[B]: a lower bound,
    over the budget, of the logit of y minus the largest other one; radius float[B]: the largest radius, in the
    budget's norm, at which the image is certified; NaN where the certifier has no such number. x_adv float[B, D] or
    None: counterexamples that it met, where attacked bool[B]; they are judged by the harness before they count.
    failure: the probability, for each image, that `certified` is wrong; 0 for a proof. seconds float[B] or None: of
    wall time, each image's share. evidence: arrays [B] by name, from which anybody can compute the radius again.
    """

    certified: np.ndarray
    prediction: np.ndarray
    margin: np.ndarray
    radius: np.ndarray
    attacked: np.ndarray | None = None
    x_adv: np.ndarray | None = None
    failure: float = 0.0
    seconds: np.ndarray | None = None
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()
    evidence: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def empty(cls, count: int) -> "Certificate":
        """Nothing proved of `count` images."""
        nothing = np.full(count, np.nan, np.float32)
        return cls(np.zeros(count, bool), np.full(count, -1), nothing, nothing.copy())


class Certifier:
    """What a registered certifier is: it proves, for each image, that no point of the budget changes the class.

    own_prediction: it certifies a model made of the given one (smoothing, masking), with a prediction of its own;
    otherwise it is asked only about images that the model gets right. failure: as in Certificate.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    own_prediction = False
    failure = 0.0

    @property
    def budgets(self) -> tuple[str, ...] | None:
        """Names of the budgets that it knows; None for all of evasion."""
        return self.facts.get("budgets")

    def certify(
        self,
        key: jax.Array,
        model: Classifier,
        x: np.ndarray,
        y: np.ndarray,
        budget: Any,
        *,
        ids: np.ndarray,
        runtime: Any,
        report: Callable[[int], None] = lambda settled: None,
    ) -> Certificate:
        """The certificate of images x [B, D] in [0, 1] or uint8 with labels y [B]. The key is consumed.

        What it draws for an image depends on its id, never on its neighbours. report is told how many are settled.
        """
        raise NotImplementedError


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
    """What a threat's procedure found: metrics by name, and per-example arrays by name.

    flags: what casts doubt on the numbers, a line each. stages: what each part of a cascade did and cost. artefacts:
    arrays that are not one entry an example (a poison set), kept beside the record.
    """

    metrics: dict[str, Metric]
    arrays: dict[str, np.ndarray]
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    papers: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    stages: tuple[dict[str, Any], ...] = ()
    artefacts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
