"""The training loops: `fit` (one model) and `fit_many` (a stack of models that differ in seed and in examples).

Each step's randomness comes from (key, step) and each epoch's order from (key, epoch), so a run that was killed
resumes to the same weights, bit for bit. The last examples of an epoch that fill no batch are left out of it; the next
epoch has another order. Attacks inside training see the model in inference mode.
Shapes: N examples, B batch, C classes, M models.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.keys import per_example, stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import on_cpu
from robustbench_jax.recipes import Recipe
from robustbench_jax.types import Classifier, Dataset, UserError, record

EVERY = 20  # steps between two looks at the loss


Train = Callable[[str, Classifier, "TrainingDefence"], Classifier]


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

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any
    ) -> tuple[Any, Any, Any]:
        """(gradients, aux, memory) of objective(weights, batch) -> (loss, aux); batch is (clean, x, y).

        aux: (params, loss, accuracy), where accuracy is that on the first copy of the batch in x.
        """
        return *jax.grad(objective, has_aux=True)(weights, batch), memory


@record
class Fit:
    """Everything that a checkpoint must hold."""

    params: Any
    optimiser: Any
    average: Any
    memory: Any
    step: jax.Array


@dataclass(frozen=True)
class Progress:
    """What a fit reports every few steps: loss and accuracy on the (perturbed) batch of that step."""

    step: int
    steps: int
    loss: float
    accuracy: float


def fit(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    recipe: Recipe,
    *,
    defence: TrainingDefence,
    directory: str | Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Classifier:
    """Trains `model` on `data`; returns it with its last weights, or their average. The key is consumed.

    directory: where checkpoints go, one an epoch; a run that finds some there goes on from the newest whole one.
    Raises UserError where a batch does not fit the data, and where the loss is no longer finite.
    """
    train = partial(_beside, stream(key, "beside"), data, recipe, directory, report)
    defence = defence.prepare(stream(key, "prepare"), model, data, train)
    per_epoch = _steps_per_epoch(len(data), recipe)
    total = per_epoch * recipe.epochs
    state = _begin(defence, model, data.x[: recipe.batch_size], recipe, total)
    keeper = Keeper(directory) if directory is not None else None
    state = keeper.newest(state) if keeper else state
    for step, rows in _batches(key, len(data), recipe, defence.replays, int(state.step)):
        x, y = data.x[rows], data.y[rows]
        state, measured = _train(stream(key, "step"), model.net, state, x, y, rows, defence, recipe, total)
        if (step + 1) % EVERY == 0 or step + 1 == total:
            loss, accuracy = map(float, measured)
            _require_finite(loss, step)
            report(Progress(step + 1, total, loss, accuracy))
        if keeper and (step + 1) % per_epoch == 0:
            keeper.save(step + 1, state)
    return model.replace(params=state.average if recipe.ema else state.params)


def _beside(key, data, recipe, directory, report, name: str, model: Classifier, defence: TrainingDefence) -> Classifier:
    """A model that a defence needs for the training of another one; trained once, as long as its directory is there."""
    inner = None if directory is None else Path(directory) / name
    return fit(stream(key, name), model, data, recipe, defence=defence, directory=inner, report=report)


def fit_many(
    keys: jax.Array,
    models: Classifier,
    data: Dataset,
    recipe: Recipe,
    *,
    defence: TrainingDefence,
    subsets: np.ndarray | None = None,
    at_once: bool | None = None,
) -> Classifier:
    """Trains M models, stacked along the leading axis of `models.params`; returns them stacked. The keys are consumed.

    keys [M]; subsets int [M, n]: the examples that each model sees (None: all). Each equals what `fit` makes of its key
    and its examples, up to rounding. at_once: one vmapped program; by default on accelerators, and on CPU where the
    models have no convolutions, which run faster there one model after another.
    """
    count = len(keys)
    subsets = np.broadcast_to(np.arange(len(data)), (count, len(data))) if subsets is None else np.asarray(subsets)
    total = _steps_per_epoch(subsets.shape[1], recipe) * recipe.epochs
    if at_once is None:
        alone = any(
            getattr(type(defence), hook) is not getattr(TrainingDefence, hook) for hook in ("prepare", "recall")
        )
        at_once = not alone and (not on_cpu() or all(value.ndim < 5 for value in models.params.values()))
    if not at_once:
        parts = [_subset(data, rows) for rows in subsets]
        fitted = [
            fit(keys[i], models.replace(params=_row(models.params, i)), parts[i], recipe, defence=defence)
            for i in range(count)
        ]
        return models.replace(params=jax.tree.map(lambda *leaves: jnp.stack(leaves), *(f.params for f in fitted)))
    first = data.x[: recipe.batch_size]
    state = jax.vmap(lambda p: _begin(defence, models.replace(params=p), first, recipe, total))(models.params)
    step_keys = jax.vmap(lambda key: stream(key, "step"))(keys)
    train = partial(_train_many, defence=defence, recipe=recipe, net=models.net, total=total)
    batches = (_batches(keys[i], subsets.shape[1], recipe, defence.replays, 0) for i in range(count))
    for steps in zip(*batches, strict=True):
        local = np.stack([rows for _, rows in steps])
        rows = np.take_along_axis(subsets, local, axis=1)
        state = train(step_keys, state, data.x[rows], data.y[rows], local)
    return models.replace(params=state.average if recipe.ema else state.params)


def _subset(data: Dataset, rows: np.ndarray) -> Dataset:
    return Dataset(data.x[rows], data.y[rows], data.classes, data.name)


class Keeper:
    """The checkpoints of one run (Orbax): the newest two, each written whole or not at all."""

    def __init__(self, directory: str | Path):
        import orbax.checkpoint

        options = orbax.checkpoint.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self.args, self.directory = orbax.checkpoint.args, Path(directory).absolute()
        self.manager = orbax.checkpoint.CheckpointManager(self.directory, options=options)

    def newest(self, state: Fit) -> Fit:
        """The state in the newest checkpoint that can be read, or `state` where there is none."""
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                leaves = self.manager.restore(step, args=self.args.StandardRestore(_leaves(state)))
            except Exception as error:
                warnings.warn(
                    f"checkpoint {step} in {self.directory} is damaged and passed over: {str(error).splitlines()[0]}",
                    stacklevel=2,
                )
                self.manager.delete(step)
                continue
            return jax.tree.unflatten(jax.tree.structure(state), [leaves[name] for name in _leaves(state)])
        return state

    def save(self, step: int, state: Fit) -> None:
        try:
            self.manager.save(step, args=self.args.StandardSave(_leaves(state)))
        except (OSError, ValueError) as error:
            raise UserError(
                f"could not write checkpoint {step} to {self.directory}: {error}; the one before it is "
                "whole, and the same command goes on from there"
            ) from error


def _leaves(state: Fit) -> dict[str, np.ndarray]:
    return {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}


def _begin(defence: TrainingDefence, model: Classifier, x: np.ndarray, recipe: Recipe, total: int) -> Fit:
    model = defence.initialise(model)
    weights = model.net.trainable(model.params)
    average = model.params if recipe.ema else {}
    memory = defence.remember(as_unit(x))
    return Fit(model.params, recipe.optimiser(total).init(weights), average, memory, jnp.zeros((), jnp.int32))


def _batches(key: jax.Array, count: int, recipe: Recipe, replays: int, first: int) -> Iterator[tuple[int, np.ndarray]]:
    """(step, rows) from step `first` to the last. Steps are those of the recipe; of each batch `replays` follow one
    another, so that fewer batches are seen.
    """
    per_epoch, seen, order = _steps_per_epoch(count, recipe), None, None
    for step in range(first, per_epoch * recipe.epochs):
        epoch, batch = divmod(step // replays, per_epoch)
        if epoch != seen:
            order = np.asarray(jax.random.permutation(jax.random.fold_in(stream(key, "order"), epoch), count))
            seen = epoch
        yield step, order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]


def _steps_per_epoch(count: int, recipe: Recipe) -> int:
    if count < recipe.batch_size:
        raise UserError(f"batch_size = {recipe.batch_size}: there are {count} training examples")
    return count // recipe.batch_size


def _train(key, net, state: Fit, x, y, ids, defence, recipe: Recipe, total: int):
    """One step of one model: augment, perturb, update."""
    batch = jax.random.fold_in(key, state.step // defence.replays)
    clean = _augment(stream(batch, "augment"), x, recipe.augmentation)
    key = jax.random.fold_in(key, state.step)
    recalling, model = defence.recall(state.memory), Classifier(net, state.params)
    x = recalling.perturb(stream(key, "perturb"), model, clean, y, ids)
    return _update(stream(key, "update"), state, clean, x, y, defence, net=net, recipe=recipe, total=total)


def _train_many(keys, state: Fit, x, y, ids, *, defence, recipe, net, total) -> Fit:
    def one(key, state, x, y, ids):
        return _train(key, net, state, x, y, ids, defence, recipe, total)[0]

    return jax.vmap(one)(keys, state, x, y, ids)


@partial(jax.jit, static_argnames="kind")
def _augment(key, x, kind: str) -> jax.Array:
    """uint8 [B, H, W, C] to float32 in [0, 1], cropped and mirrored example by example."""
    x = as_unit(x)
    pad = x.shape[1] // 8

    def one(key, image):
        corner, mirror = jax.random.split(key)
        if "crop" in kind:
            top, left = jax.random.randint(corner, (2,), 0, 2 * pad + 1)
            padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
            image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
        return jnp.where(jax.random.bernoulli(mirror), image[:, ::-1], image) if "flip" in kind else image

    return x if kind == "none" else jax.vmap(one)(per_example(key, jnp.arange(len(x))), x)


@partial(jax.jit, static_argnames=("net", "recipe", "total"))
def _update(key, state: Fit, clean, x, y, defence, *, net, recipe: Recipe, total: int):
    weights, progress = net.trainable(state.params), state.step / total

    def objective(weights, batch):
        clean, x, y = batch
        logits, params = net.train(state.params | weights, x, stream(key, "dropout"))
        model = Classifier(net, state.params | weights)
        loss = defence.objective(stream(key, "objective"), model, clean, x, logits, y, progress)
        return loss, (params, loss, jnp.mean(jnp.argmax(logits[: len(y)], -1) == y))

    gradients, (params, loss, accuracy), memory = defence.combine(
        stream(key, "combine"), objective, weights, (clean, x, y), state.memory
    )
    changes, optimiser = recipe.optimiser(total).update(gradients, state.optimiser, weights)
    params = params | optax.apply_updates(weights, changes)
    average = state.average
    if recipe.ema:
        average = jax.tree.map(lambda a, p: recipe.ema * a + (1 - recipe.ema) * p, average, params)
    return Fit(params, optimiser, average, memory, state.step + 1), (loss, accuracy)


def _require_finite(loss: float, step: int) -> None:
    if not np.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step + 1}: lower the learning rate; checkpoints before this step are whole"
        )


def _row(params: dict, i: int) -> dict:
    return {name: value[i] for name, value in params.items()}
