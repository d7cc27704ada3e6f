"""One step of training, and several that follow one another as one program.

Each step's randomness comes from (key, step) alone, so that it does not matter how many steps are one program.
Shapes: M models, K steps, B batch, D input shape.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.fitting import Fit, averaged
from robustbench_jax.keys import per_example, stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import groups, in_threads, on_cpu
from robustbench_jax.recipes import Recipe
from robustbench_jax.types import Classifier, Dataset

FEW = 2**25  # bytes of images that the models of one program are given, on CPU

Measured = tuple[jax.Array, jax.Array]


def advanced(
    key, net, state: Fit, data: Dataset, rows: np.ndarray, room: int, defence, recipe: Recipe, total: int
) -> tuple[Fit, Measured]:
    """The state after the steps on batches rows [K, B], and (loss, accuracy) of the last one.

    room: 1 takes a step on the one batch, between whose parts an attack may be driven from the host; else the program
    has room for so many batches.
    """
    if room == 1:
        return train_step(key, net, state, data.x[rows[0]], data.y[rows[0]], rows[0], defence, recipe, total)
    full = _full(rows, room)
    batches = data.x[full], data.y[full], full
    return _several_compiled(key, state, batches, len(rows), defence, net=net, recipe=recipe, total=total)


def many_advanced(
    keys, net, state: Fit, data: Dataset, rows: np.ndarray, ids: np.ndarray, room: int, defence, recipe, total: int
) -> tuple[Fit, Measured]:
    """As `advanced`, of M models: all arrays have one more axis in front. ids [M, K, B]: positions among the examples
    of each model, whose rows [M, K, B] of the data those are.

    On CPU the models take turns on every core, which keeps the weights of each in its cache.
    """
    if room == 1:
        rows, ids = rows[:, 0], ids[:, 0]
        return _each(keys, state, data.x[rows], data.y[rows], ids, defence, net=net, recipe=recipe, total=total)
    count, steps = len(rows), rows.shape[1]
    rows, ids = _full(rows, room), _full(ids, room)
    run = partial(_turns if on_cpu() else _abreast, net=net, recipe=recipe, total=total)

    def of(models: slice):
        batches = data.x[rows[models]], data.y[rows[models]], ids[models]
        return jax.block_until_ready(
            run(keys[models], jax.tree.map(lambda leaf: leaf[models], state), batches, steps, defence)
        )

    if not on_cpu():
        return of(slice(0, count))
    most = FEW // (room * rows.shape[-1] * data.x[0].nbytes)
    found = list(in_threads(of, groups(count, most)))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)


def _full(rows: np.ndarray, room: int) -> np.ndarray:
    """[..., room, B]: the batches [..., K, B] over and over, of which a program takes the first K."""
    return rows[..., np.arange(room) % rows.shape[-2], :]


def train_step(key, net, state: Fit, x, y, ids, defence, recipe: Recipe, total: int):
    """One step of one model: augment, perturb, update."""
    clean, perturb, update = _ready(key, x, state.step, recipe.augmentation, defence.replays)
    recalling, model = defence.recall(state.memory), Classifier(net, state.params)
    x = recalling.perturb(perturb, model, clean, y, ids)
    return _update(update, state, clean, x, y, defence, net=net, recipe=recipe, total=total)


@partial(jax.jit, static_argnames=("augmentation", "replays"))
def _ready(key, x, step, augmentation: str, replays: int):
    """The step's augmented images, and its keys for `perturb` and for the update."""
    batch, key = jax.random.fold_in(key, step // replays), jax.random.fold_in(key, step)
    return augmented(stream(batch, "augment"), x, augmentation), stream(key, "perturb"), stream(key, "update")


@partial(jax.jit, static_argnames="kind")
def augmented(key, x, kind: str) -> jax.Array:
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
        labels = y if y.ndim == 1 else jnp.argmax(y, -1)
        return loss, (params, loss, jnp.mean(jnp.argmax(logits[: len(y)], -1) == labels))

    gradients, (params, loss, accuracy), memory = defence.combine(
        stream(key, "combine"), objective, weights, (clean, x, y), state.memory
    )
    changes, optimiser = recipe.optimiser(total).update(gradients, state.optimiser, weights)
    params = params | optax.apply_updates(weights, changes)
    per_epoch = total // recipe.epochs
    return state.replace(
        params=params,
        optimiser=optimiser,
        average=averaged(state, params, recipe, total),
        memory=memory,
        trace=state.trace.trained(state.step // per_epoch, loss, accuracy, 1 / per_epoch),
        step=state.step + 1,
    ), (loss, accuracy)


def _several(key, state: Fit, batches, count, defence, *, net, recipe: Recipe, total: int) -> tuple[Fit, Measured]:
    """The first `count` steps on batches, arrays [room, B, ...]."""

    def step(number, found):
        return train_step(key, net, found[0], *(own[number] for own in batches), defence, recipe, total)

    return jax.lax.fori_loop(0, count, step, (state, (jnp.zeros(()), jnp.zeros(()))))


_several_compiled = jax.jit(_several, static_argnames=("net", "recipe", "total"))


@partial(jax.jit, static_argnames=("net", "recipe", "total"))
def _turns(keys, state: Fit, batches, count, defence, *, net, recipe: Recipe, total: int):
    """`_several` of one model after another."""

    def one(own):
        return _several(*own, count, defence, net=net, recipe=recipe, total=total)

    return jax.lax.map(one, (keys, state, batches))


@partial(jax.jit, static_argnames=("net", "recipe", "total"))
def _abreast(keys, state: Fit, batches, count, defence, *, net, recipe: Recipe, total: int):
    """`_several` of all models at once."""

    def one(*own):
        return _several(*own, count, defence, net=net, recipe=recipe, total=total)

    return jax.vmap(one)(keys, state, batches)


def _each(keys, state: Fit, x, y, ids, defence, *, net, recipe: Recipe, total: int):
    """One step of each model, not compiled as a whole."""

    def one(key, state, x, y, ids):
        return train_step(key, net, state, x, y, ids, defence, recipe, total)

    return jax.vmap(one)(keys, state, as_unit(x), y, ids)
