"""The state of a training run, and what its weights are worth at the end of an epoch.

After equal averaging of weights (Izmailov et al., UAI 2018, arXiv:1803.05407) batch norm's statistics are the mean of
those of the training images, batch by batch, as they are: neither augmented nor attacked.
Shapes: N examples, B batch.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.learning_curve import Curve, Trace, best, constant_answer, validate
from robustbench_jax.ops.images import as_unit
from robustbench_jax.recipes import Recipe
from robustbench_jax.types import Classifier, Dataset, record


@record
class Fit:
    """Everything that a checkpoint must hold."""

    params: Any
    optimiser: Any
    average: Any
    best: Any
    memory: Any
    trace: Trace
    step: jax.Array


def begin(defence, model: Classifier, x: np.ndarray, recipe: Recipe, total: int) -> Fit:
    """Before the first of `total` steps; x: the first batch, of which a defence remembers the shape."""
    model = defence.initialise(model)
    weights = model.net.trainable(model.params)
    average, chosen = (model.params if wanted else {} for wanted in (recipe.averages, recipe.keep == "best"))
    optimiser, memory = recipe.optimiser(total).init(weights), defence.remember(as_unit(x))
    return Fit(model.params, optimiser, average, chosen, memory, Trace.of(recipe.epochs), jnp.zeros((), jnp.int32))


def averaged(state: Fit, params: dict, recipe: Recipe, total: int) -> dict:
    """The average with the newest weights in it; until averaging begins, these alone."""
    if not recipe.averages:
        return {}
    seen = jnp.maximum(state.step - round(recipe.swa * total), 0)
    share = 1 - recipe.ema if recipe.ema else 1 / (seen + 1)
    return jax.tree.map(lambda a, p: (1 - share) * a + share * p, state.average, params)


def judge(key, net, state: Fit, data: Dataset, held: Dataset, defence, recipe: Recipe, epoch: int) -> Fit:
    """The state with the epoch's accuracy on the images held out, of the weights that would be returned now."""
    params = _weights(key, net, state, data, recipe)
    model, watched = Classifier(net, params), defence.watched
    trace = state.trace.judged(epoch, *validate(stream(key, "validate"), model, held, watched, recipe.batch_size))
    better = recipe.keep == "best" and best(trace) == epoch
    return state.replace(trace=trace, best=params if better else state.best)


def _weights(key, net, state: Fit, data: Dataset, recipe: Recipe) -> dict:
    """What the newest weights, or their average, are worth returning as."""
    if not recipe.averages:
        return state.params
    return state.average | (_statistics(key, net, state.average, data, recipe.batch_size) if recipe.swa else {})


def _statistics(key, net, params: dict, data: Dataset, size: int) -> dict:
    """Batch norm's statistics with these weights: means over the whole batches of the data."""
    starts = range(0, len(data) - size + 1, size)
    each = [_statistics_of(net, params, data.x[i : i + size], stream(key, "statistics")) for i in starts]
    return jax.tree.map(lambda *parts: jnp.mean(jnp.stack(parts), axis=0), *each)


@partial(jax.jit, static_argnames="net")
def _statistics_of(net, params, x, key):
    return net.statistics(params, as_unit(x), key)


def finish(key, net, state: Fit, data: Dataset, recipe: Recipe, steps: int) -> tuple[Classifier, Curve]:
    """The model that the recipe returns, and its curve; steps: how many this call took."""
    params = state.best if recipe.keep == "best" else _weights(key, net, state, data, recipe)
    curve = Curve.read(state.trace, recipe.keep, recipe.holdout, steps, constant_answer(data.y))
    return Classifier(net, params), curve
