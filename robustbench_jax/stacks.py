"""Stacks: models that differ in seed and in examples, trained as one program where the platform gains from it.

Each member equals what `fit` makes of its key and its examples, up to rounding (training.py).
Shapes: N examples, M models.
"""

from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.checkpoints import Keeper
from robustbench_jax.fitting import begin, finish, judge
from robustbench_jax.keys import stream
from robustbench_jax.learning_curve import Curve, Progress, Report, progress, silent
from robustbench_jax.ops.runtime import in_threads, on_cpu
from robustbench_jax.recipes import Recipe
from robustbench_jax.steps import many_advanced
from robustbench_jax.training import (
    Run,
    TrainingDefence,
    batches,
    fit_in_order,
    has_kernels,
    has_own,
    hold_out,
    looks,
    require_finite,
    require_one_loop,
    room_for,
    steps_per_epoch,
    subset,
    unperturbed,
)
from robustbench_jax.types import Classifier, Dataset, UserError


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
    and its examples, up to rounding. at_once: step by step together; by default where `as_one` says so, and never for
    a defence that prepares itself or recalls what it remembers. Raises UserError as `fit` does.
    """
    return fit_many_with_curves(keys, models, data, recipe, defence=defence, subsets=subsets, at_once=at_once)[0]


def fit_many_with_curves(
    keys: jax.Array,
    models: Classifier,
    data: Dataset,
    recipe: Recipe,
    *,
    defence: TrainingDefence,
    subsets: np.ndarray | None = None,
    at_once: bool | None = None,
    directory: str | Path | None = None,
    report: Report = silent,
) -> tuple[Classifier, list[Curve]]:
    """As `fit_many`, with M curves. directory: as in `fit`, one for all; report: told of means over the models."""
    require_one_loop(defence)
    count = len(keys)
    subsets = np.broadcast_to(np.arange(len(data)), (count, len(data))) if subsets is None else np.asarray(subsets)
    each = list(keys)
    parts = [[own[rows] for rows in hold_out(key, len(own), recipe)] for key, own in zip(each, subsets, strict=True)]
    at_once = as_one(defence, _model(models, 0)) if at_once is None else at_once and not _alone(defence)
    if at_once:
        fitted = _fit_stack(keys, models, data, parts, recipe, defence, directory, report)
    else:
        stop = Event()
        run = Run.of(directory, partial(_told, report, stop))
        if has_own(defence, "loop"):
            raise UserError(f"'{defence.registered[1]}' trains several models itself; train one with it at a time")

        def alone(i: int):
            own = map(partial(subset, data), parts[i])
            return fit_in_order(each[i], _model(models, i), *own, recipe, defence, run.inside(str(i)))

        threads = on_cpu() and unperturbed(defence)  # attacks keep the cores busy themselves
        fitted = list(in_threads(alone, range(count), stop) if threads else map(alone, range(count)))
    return models.replace(params=_stack([model.params for model, _ in fitted])), [curve for _, curve in fitted]


def _told(report: Report, stop: Event, progress: Progress) -> None:
    """Ends a training whose results nobody waits for any more."""
    if stop.is_set():
        raise InterruptedError
    report(progress)


def gains(defence: TrainingDefence, model: Classifier) -> bool:
    """Whether several such models are trained faster by `fit_many` than one after another: on accelerators, and on CPU
    where no attack perturbs the images, most of all without convolutions.
    """
    return not _alone(defence) and (not on_cpu() or unperturbed(defence))


def as_one(defence: TrainingDefence, model: Classifier) -> bool:
    """Whether they take their steps together: on accelerators, and on CPU where many steps are one program."""
    return gains(defence, model) and not (on_cpu() and has_kernels(model))


def _alone(defence: TrainingDefence) -> bool:
    """Whether it has a hook that looks at one model on the host, or a loop of its own."""
    return any(has_own(defence, hook) for hook in ("prepare", "recall", "loop"))


def _fit_stack(keys, models, data: Dataset, parts, recipe: Recipe, defence, directory, report):
    """parts: for each model, which rows of the data it is trained on, and which are held out."""
    count, size = len(keys), len(parts[0][0])
    per_epoch = steps_per_epoch(size, recipe)
    total = per_epoch * recipe.epochs
    first = data.x[: recipe.batch_size]
    state = jax.vmap(lambda p: begin(defence, models.replace(params=p), first, recipe, total))(models.params)
    keeper = Keeper(directory) if directory is not None else None
    state = keeper.newest(state) if keeper else state
    first = int(state.step[0])
    step_keys = jax.vmap(lambda key: stream(key, "step"))(keys)
    trained = np.stack([rows for rows, _ in parts])
    room = room_for(defence, _model(models, 0), per_epoch, count * data.x[: recipe.batch_size].nbytes)
    for step, ids in batches(keys, size, recipe, defence.replays, first, room):
        rows = np.take_along_axis(trained[:, None], ids, axis=2)
        state, measured = many_advanced(step_keys, models.net, state, data, rows, ids, room, defence, recipe, total)
        ends = (step + 1) % per_epoch == 0
        if ends and recipe.holdout:
            require_finite(measured[0], step)
            each = [(_row(state, i), *(subset(data, rows) for rows in parts[i])) for i in range(count)]
            epoch = step // per_epoch
            state = _stack([judge(keys[i], models.net, *own, defence, recipe, epoch) for i, own in enumerate(each)])
        if looks(step, total, ends and recipe.holdout):
            require_finite(measured[0], step)
            traces = jax.tree.map(np.asarray, state.trace)
            report(progress(step, total, measured, [_row(traces, i) for i in range(count)], recipe, data.y))
        if keeper and ends:
            keeper.save(step + 1, state)
    state = jax.tree.map(np.asarray, state)  # to be taken apart on the host
    seen = [subset(data, rows) if recipe.swa else data for rows, _ in parts]  # by averages of weights alone
    return [finish(key, models.net, _row(state, i), seen[i], recipe, total - first) for i, key in enumerate(list(keys))]


def _model(models: Classifier, i: int) -> Classifier:
    return models.replace(params=_row(models.params, i))


def _row(stack: Any, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], stack)


def _stack(rows: list) -> Any:
    def stacked(*leaves):
        return jnp.asarray(np.stack(leaves)) if isinstance(leaves[0], np.ndarray) else jnp.stack(leaves)

    return jax.tree.map(stacked, *rows)
