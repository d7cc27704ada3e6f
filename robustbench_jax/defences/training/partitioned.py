"""partitioned(partitions, spread): many models, each trained on images of its own; the class that most vote for.

References: Levine & Feizi, ICLR 2021, arXiv:2006.14768 (deep partition aggregation); with spread > 1 Wang, Levine &
Feizi, ICML 2022, arXiv:2202.02628 (finite aggregation: partitions * spread models, each image seen by `spread` of
them). A certificate holds only if what a model becomes depends on its own images alone. So its key is its number's, its
images are in an order that their contents give, batches are drawn with replacement, and the number of steps is an
argument: nothing depends on how many images there are elsewhere. Batch norm's statistics would be trained by nobody:
refused.
Shapes: M models, S images of the largest, B batch.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from robustbench_jax.keys import stream
from robustbench_jax.learning_curve import Curve, Progress, Report
from robustbench_jax.models.ensemble import Ensemble
from robustbench_jax.models.net import Params
from robustbench_jax.ops.partitions import parts
from robustbench_jax.ops.runtime import groups, in_threads, on_cpu
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.steps import FEW, augmented
from robustbench_jax.training import Run, Trained, TrainingDefence, has_kernels
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@register("training", "partitioned", paper="levine2021", surrogate="standard")
@record
class Partitioned(TrainingDefence):
    """partitions: k; spread: d, of k * d models; steps: of each. The recipe's epochs and holdout are not used."""

    partitions: int = static(default=50)
    spread: int = static(default=1)
    steps: int = static(default=200)

    def __post_init__(self):
        require_positive("partitioned", partitions=self.partitions, spread=self.spread, steps=self.steps)
        if self.spread > self.partitions * self.spread - 1 and self.spread > 1:
            raise UserError(f"partitioned: spread = {self.spread} is too large for {self.partitions} partitions")

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """A run that was killed begins anew."""
        count = self.partitions * self.spread
        rows = parts(data.x, data.y, count, self.spread)
        params, curve = fit_ensemble("partitioned", key, model, data, recipe, rows, self.steps, run.report)
        return Classifier(Ensemble(model.net, count, self.spread), params), curve


def fit_ensemble(
    owner: str,
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    recipe: Recipe,
    rows: list[np.ndarray],
    steps: int,
    report: Report,
) -> tuple[Params, Curve]:
    """(params stacked [M, ...], curve) of M models, each trained for `steps` on its own rows alone, from the weights of
    `model`. Raises UserError for batch norm, whose statistics nobody would train.
    """
    if any(isinstance(node, nnx.BatchNorm) for _, node in nnx.iter_graph(model.net.module(model.params))):
        raise UserError(f"{owner}: no batch norm: models share no statistics; take e.g. mlp or cnn")
    count, sizes = len(rows), np.array([len(own) for own in rows])
    most = max(int(sizes.max()), 1)
    rows = np.stack([np.resize(own, most) if len(own) else np.zeros(most, int) for own in rows])
    few = 1 if has_kernels(model) else FEW // (most * data.x[0].nbytes)
    members = groups(count, few) if on_cpu() else [slice(0, count)]
    fitted, losses = [], []

    def some(which: slice):
        return _some(key, model, data, recipe, np.arange(count)[which], rows[which], sizes[which], steps)

    for which, (params, measured) in zip(members, in_threads(some, members), strict=True):
        fitted.append(params)
        losses.append(measured)
        report(Progress(which.stop, count, *measured))
    loss, right = (float(np.mean([m[i] for m in losses])) for i in (0, 1))
    params = {name: jnp.concatenate([part[name] for part in fitted]) for name in model.params}
    return params, Curve((loss,), (right,), None, None, kept=1, steps=steps)


def _some(key, model: Classifier, data: Dataset, recipe: Recipe, numbers, rows, sizes, steps: int):
    """(params [M', ...], [loss, accuracy] of the last step) of the models of these numbers."""
    keys = jax.vmap(lambda i: jax.random.fold_in(stream(key, "model"), i))(jnp.asarray(numbers))
    params = jax.tree.map(lambda v: jnp.broadcast_to(v, (len(numbers), *v.shape)), model.params)
    optimiser = jax.vmap(recipe.optimiser(steps).init)(model.net.trainable(params))
    x, y, sizes = jnp.asarray(data.x[rows]), jnp.asarray(data.y[rows]), jnp.asarray(sizes)
    form = {"net": model.net, "recipe": recipe, "steps": steps}
    if on_cpu() and has_kernels(model):  # slow in a compiled loop
        for step in range(steps):
            params, optimiser, measured = _step(keys, step, params, optimiser, x, y, sizes, **form)
    else:
        params, measured = _steps(keys, params, optimiser, x, y, sizes, **form)
    return params, [float(jnp.mean(value)) for value in measured]


@partial(jax.jit, static_argnames=("net", "recipe", "steps"))
def _steps(keys, params, optimiser, x, y, sizes, *, net, recipe: Recipe, steps: int):
    """All steps: of one model after another on CPU, of all at once elsewhere."""

    def one(key, params, optimiser, *own):
        def step(number, found):
            return _one_step(key, number, *found[:2], *own, net=net, recipe=recipe, steps=steps)

        zero = jnp.zeros(())
        params, _, measured = jax.lax.fori_loop(0, steps, step, (params, optimiser, (zero, zero)))
        return params, measured

    given = (keys, params, optimiser, x, y, sizes)
    return jax.lax.map(lambda own: one(*own), given) if on_cpu() else jax.vmap(one)(*given)


@partial(jax.jit, static_argnames=("net", "recipe", "steps"))
def _step(keys, step, params, optimiser, x, y, sizes, *, net, recipe: Recipe, steps: int):
    """One step of each of a few models."""

    def one(key, *own):
        return _one_step(key, step, *own, net=net, recipe=recipe, steps=steps)

    return jax.vmap(one)(keys, params, optimiser, x, y, sizes)


def _one_step(key, step, params, optimiser, x, y, size, *, net, recipe: Recipe, steps: int):
    own = jax.random.fold_in(key, step)
    rows = (jax.random.uniform(own, (recipe.batch_size,)) * size).astype(jnp.int32)
    images = augmented(stream(own, "augment"), x[rows], recipe.augmentation)
    labels, weights = y[rows], net.trainable(params)

    def loss(weights):
        logits = net(params | weights, images)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(each) * (size > 0), jnp.mean(jnp.argmax(logits, -1) == labels)

    (value, right), slope = jax.value_and_grad(loss, has_aux=True)(weights)
    changes, optimiser = recipe.optimiser(steps).update(slope, optimiser, weights)
    return params | optax.apply_updates(weights, changes), optimiser, (value, right)
