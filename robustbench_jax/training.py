"""The training loop: `fit` trains one model, `fit_with_curve` returns how it went as well (learning_curve.py). Several
at once: stacks.py; one step: steps.py.
Each step's randomness comes from (key, step) and each epoch's order from (key, epoch), so a run that was killed
resumes to the same weights, bit for bit. The last examples of an epoch that fill no batch are left out of it; the next
epoch has another order. Attacks inside training see the model in inference mode. Images that a recipe holds out are
seen by neither the model nor its teachers.
Shapes: N examples, B batch, C classes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.checkpoints import Keeper
from robustbench_jax.fitting import begin, finish, judge
from robustbench_jax.keys import stream
from robustbench_jax.learning_curve import Curve, Report, progress, silent
from robustbench_jax.ops.runtime import on_cpu
from robustbench_jax.recipes import Recipe
from robustbench_jax.steps import advanced
from robustbench_jax.types import Classifier, Dataset, UserError

EVERY = 20  # steps between two looks at the loss
HELD = 2**28  # bytes of images that one program is given


Train = Callable[[str, Classifier, "TrainingDefence"], Classifier]
Trained = tuple[Classifier, Curve]


@dataclass(frozen=True)
class Run:
    """Where one training keeps its checkpoints, one an epoch (None: nowhere), and whom it tells how it goes."""

    directory: Path | None = None
    report: Report = silent

    @classmethod
    def of(cls, directory: str | Path | None, report: Report) -> "Run":
        return cls(None if directory is None else Path(directory), report)

    def inside(self, name: str) -> "Run":
        """A training that is part of this one, with a directory of its own inside."""
        return Run(None if self.directory is None else self.directory / name, self.report)


class TrainingDefence:
    """What a training defence may change: the inputs, the loss, and how gradients are made of it."""

    replays = 1  # how many steps in a row each batch is used for, with the same augmentation

    @property
    def watched(self) -> tuple[Any, Any] | None:
        """(attack, budget) whose success on held-out images tells how training goes; None: no attack does."""
        return None

    def prepare(self, key: jax.Array, model: Classifier, data: Dataset, train: Train) -> "TrainingDefence":
        """What it becomes once it has what it needs (a teacher, other images), before the first step.

        model: with fresh weights; data: what it will be trained on. train(name, model, defence) fits a model on the
        same data with the same recipe, and keeps it under that name beside the run's checkpoints. The key is consumed.
        """
        return self

    def initialise(self, model: Classifier) -> Classifier:
        """The model, with fresh weights, that training starts from."""
        return model

    def remember(self, x: jax.Array) -> Any:
        """What is carried from step to step, at first; x: images float32 [B, D] of the batch's shape."""
        return ()

    def recall(self, memory: Any) -> "TrainingDefence":
        """What it is in the next call of `perturb`, in view of what it remembers. It may look at it on the host."""
        return self

    def learned(self, memory: Any) -> dict[str, jax.Array]:
        """What of its memory after the last step is kept beside the model, arrays by name: nothing, for most."""
        return {}

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        """What the model is trained on instead of x [B, D]; called between compiled steps: it may drive an attack.

        Several copies of the batch may come back, one after another [copies * B, D]; `objective` gets their logits.
        """
        return x

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        """The mean loss of logits [B, C]."""
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    def objective(
        self,
        key: jax.Array,
        model: Classifier,
        clean: jax.Array,
        x: jax.Array,
        logits: jax.Array,
        y: jax.Array,
        progress: jax.Array,
    ) -> jax.Array:
        """The mean loss of a batch, differentiated by the weights of `model` (in inference mode).

        clean [B, D]: the augmented images; x [B, D]: what `perturb` made of them; logits [B, C]: of x, in training
        mode; progress: the share of all steps that is done, from 0 to 1.
        """
        return self.loss(logits, y)

    def fit(
        self,
        key: jax.Array,
        model: Classifier,
        data: Dataset,
        recipe: Recipe,
        *,
        directory: str | Path | None = None,
        report: Report = silent,
    ) -> Trained:
        """`model`, with fresh weights, trained, and how that went. directory, report: as in `fit`. Not for overriding:
        a defence that trains several models, or clients, has a `loop` of its own.
        """
        return self.loop(key, model, data, recipe, Run.of(directory, report))

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """What `fit` does."""
        require_one_loop(self)
        return fit_with_curve(key, model, data, recipe, defence=self, run=run)

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any
    ) -> tuple[Any, Any, Any]:
        """(gradients, aux, memory) of objective(weights, batch) -> (loss, aux); batch is (clean, x, y); the
        defence may replace y by shares of the classes [B, C], which its objective then gets.

        aux: (params, loss, accuracy), where accuracy is that on the first copy of the batch in x.
        """
        return *jax.grad(objective, has_aux=True)(weights, batch), memory


def fit(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    recipe: Recipe,
    *,
    defence: TrainingDefence,
    directory: str | Path | None = None,
    report: Report = silent,
) -> Classifier:
    """Trains `model` on `data`; returns it with its last weights, their average, or the best ones, as the recipe says.

    directory: where checkpoints go, one an epoch; a run that finds some there goes on from the newest whole one.
    The key is consumed. Raises UserError where a batch does not fit the data, and where the loss is no longer finite.
    """
    return defence.fit(key, model, data, recipe, directory=directory, report=report)[0]


def fit_with_curve(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    recipe: Recipe,
    *,
    defence: TrainingDefence,
    run: Run = Run(),
) -> Trained:
    """As `fit`, with the curve; in this loop, whatever loop of its own the defence may have."""
    train, held = (subset(data, rows) for rows in hold_out(key, len(data), recipe))
    return fit_in_order(key, model, train, held, recipe, defence, run)


def fit_in_order(key, model, data: Dataset, held: Dataset, recipe: Recipe, defence, run: Run) -> Trained:
    """The loop of `fit_with_curve`, on data and images held out, which are told apart already."""
    train = partial(_beside, stream(key, "beside"), data, held, recipe, run)
    defence = defence.prepare(stream(key, "prepare"), model, data, train)
    per_epoch = steps_per_epoch(len(data), recipe)
    total = per_epoch * recipe.epochs
    state = begin(defence, model, data.x[: recipe.batch_size], recipe, total)
    keeper = Keeper(run.directory) if run.directory is not None else None
    state = keeper.newest(state) if keeper else state
    first, steps = int(state.step), stream(key, "step")
    room = room_for(defence, model, per_epoch, data.x[: recipe.batch_size].nbytes)
    for step, rows in batches(key, len(data), recipe, defence.replays, first, room):
        state, measured = advanced(steps, model.net, state, data, rows, room, defence, recipe, total)
        ends = (step + 1) % per_epoch == 0
        if ends and recipe.holdout:
            require_finite(measured[0], step)
            state = judge(key, model.net, state, data, held, defence, recipe, step // per_epoch)
        if looks(step, total, ends and recipe.holdout):
            require_finite(measured[0], step)
            run.report(progress(step, total, measured, [state.trace], recipe, data.y))
        if keeper and ends:
            keeper.save(step + 1, state)
    fitted, curve = finish(key, model.net, state, data, recipe, total - first)
    return fitted, dataclasses.replace(curve, learned=defence.learned(state.memory))


def _beside(key, data, held, recipe, run: Run, name: str, model: Classifier, defence: TrainingDefence) -> Classifier:
    """A model that a defence needs for the training of another one; trained once, as long as its directory is there."""
    return fit_in_order(stream(key, name), model, data, held, recipe, defence, run.inside(name))[0]


def require_one_loop(defence: TrainingDefence) -> None:
    """UserError for a defence around one that has a training loop of its own, which would be passed over."""
    inner = getattr(defence, "defence", None)
    while isinstance(inner, TrainingDefence):
        if has_own(inner, "loop"):
            around, name = defence.registered[1], inner.registered[1]
            raise UserError(f"'{name}' has a training loop of its own, and cannot be inside '{around}'")
        inner = getattr(inner, "defence", None)


def has_own(defence: TrainingDefence, hook: str) -> bool:
    return getattr(type(defence), hook) is not getattr(TrainingDefence, hook)


def hold_out(key: jax.Array, count: int, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Which of `count` examples are trained on, and which are held out."""
    if not recipe.holdout:
        return np.arange(count), np.arange(0)
    if count - recipe.holdout < recipe.batch_size:
        raise UserError(
            f"holdout = {recipe.holdout}: of {count} training examples that leaves less than one batch of "
            f"{recipe.batch_size}"
        )
    order = np.asarray(jax.random.permutation(stream(key, "holdout"), count))
    return np.sort(order[recipe.holdout :]), np.sort(order[: recipe.holdout])


def subset(data: Dataset, rows: np.ndarray) -> Dataset:
    whole = np.array_equal(rows, np.arange(len(data)))
    return data if whole else data.rows(rows)


def looks(step: int, total: int, judged: bool) -> bool:
    return bool(judged) or (step + 1) % EVERY == 0 or step + 1 == total


def unperturbed(defence: TrainingDefence) -> bool:
    """Whether no attack, which may be driven from the host, perturbs what it trains on."""
    return not has_own(defence, "perturb")


def room_for(defence: TrainingDefence, model: Classifier, per_epoch: int, size: int) -> int:
    """How many steps, each with so many bytes of images, are one program, at most: those between two looks of the host,
    where it is not needed in between and nothing is slow in a compiled loop.
    """
    alone = not unperturbed(defence) or has_own(defence, "recall") or (on_cpu() and has_kernels(model))
    return 1 if alone else max(min(EVERY, per_epoch, HELD // size), 1)


def has_kernels(model: Classifier) -> bool:
    """Whether it has convolutions."""
    return any(value.ndim > 3 for value in model.params.values())


def batches(
    key: jax.Array, count: int, recipe: Recipe, replays: int, first: int, room: int = 1
) -> Iterator[tuple[int, np.ndarray]]:
    """(last step, rows [K, B]) of at most `room` steps that follow one another, from step `first` to the last; no look
    and no end of an epoch is between them. Of several keys [M], rows [M, K, B]. Steps are those of the recipe; of each
    batch `replays` follow one another, so that fewer batches are seen.
    """
    per_epoch, seen, order, waiting = steps_per_epoch(count, recipe), None, None, []
    total = per_epoch * recipe.epochs
    for step in range(first, total):
        epoch, batch = divmod(step // replays, per_epoch)
        if epoch != seen:
            order, seen = np.asarray(_order(key, epoch, count)), epoch
        waiting.append(order[..., batch * recipe.batch_size : (batch + 1) * recipe.batch_size])
        if len(waiting) == room or looks(step, total, (step + 1) % per_epoch == 0):
            yield step, np.stack(waiting, axis=-2)
            waiting = []


@partial(jax.jit, static_argnames="count")
def _order(key, epoch, count: int) -> jax.Array:
    """int [N], or [M, N] of several keys."""

    def one(key):
        return jax.random.permutation(jax.random.fold_in(stream(key, "order"), epoch), count)

    return jax.vmap(one)(key) if key.ndim else one(key)


def steps_per_epoch(count: int, recipe: Recipe) -> int:
    if count < recipe.batch_size:
        raise UserError(
            f"batch_size = {recipe.batch_size}: there are {count} to train on; take batch_size={count} or less"
        )
    return count // recipe.batch_size


def require_finite(losses: Any, step: int) -> None:
    """losses: of one model or of each of a stack."""
    loss = float(np.sum(losses))
    if not np.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step + 1}: lower the learning rate; checkpoints before this step are whole"
        )
