"""dp_ftrl(epsilon, delta): private training without sampling: batches in any order, noise that takes itself back.

Reference: Kairouz et al., ICML 2021, arXiv:2103.00039, with a restart after each epoch. Sums of clipped gradients over
the first t batches get the noise of a binary tree over batches: that of the nodes that make up 1..t. So a step adds one
node's noise and takes away that of its parts, and no sum has more than one node a level. An example is in one batch an
epoch, that is in as many nodes as the tree has levels, and epochs compose: all is one addition of Gaussian noise. What
the recipe's optimiser makes of it costs nothing.
Departs from the paper: the noise of a node is not refined by that of its parts (Honaker).
Shapes: N images, B batch.
"""

import math
from functools import partial

import jax
import numpy as np
import optax

from robustbench_jax.defences.training.dp_sgd import EVERY, clipped_part, sampling
from robustbench_jax.keys import stream
from robustbench_jax.learning_curve import Curve, Progress, Trace
from robustbench_jax.models.per_example import require_separate
from robustbench_jax.ops.accounting import Guarantee, gaussian_guarantee
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.training import Run, Trained, TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive


@register("training", "dp_ftrl", paper="kairouz2021")
@record
class DPFTRL(TrainingDefence):
    """epsilon, delta: of the whole training, for examples whose place in their batch is left empty. noise: of a node,
    over `clip`; 0 for what epsilon needs.
    """

    epsilon: float = 3.0
    delta: float = 1e-5
    clip: float = 1.0
    noise: float = 0.0

    def __post_init__(self):
        require_positive("dp_ftrl", epsilon=self.epsilon, delta=self.delta, clip=self.clip)
        if isinstance(self.delta, float) and self.delta >= 1:
            raise UserError(f"dp_ftrl: delta = {self.delta} must be below 1")
        if isinstance(self.noise, float) and self.noise < 0:
            raise UserError(f"dp_ftrl: noise = {self.noise} must be at least 0")

    def guarantee(self, recipe: Recipe, images: int) -> Guarantee:
        """What a training on so many images promises."""
        seen = recipe.epochs * levels(sampling(recipe, images)[1] // recipe.epochs)
        noise = self._noise(recipe, images)
        terms = f"noise {noise:.4g} of nodes, each example in {seen} of them, one example left out of its batches"
        return gaussian_guarantee(noise / math.sqrt(seen), float(self.delta), terms)

    def _noise(self, recipe: Recipe, images: int) -> float:
        from dp_accounting import get_sigma_gaussian

        seen = recipe.epochs * levels(sampling(recipe, images)[1] // recipe.epochs)
        return float(self.noise) or get_sigma_gaussian(float(self.epsilon), float(self.delta)) * math.sqrt(seen)

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """A run that was killed begins anew. Raises UserError for batch norm and for a recipe that holds images out."""
        require_separate("dp_ftrl", model.net, model.params)
        if recipe.holdout or recipe.averages:
            raise UserError("dp_ftrl: holdout, ema and swa of the recipe are not for it; leave them out")
        total, size = sampling(recipe, len(data))[1], recipe.batch_size
        deviation, per_epoch = self._noise(recipe, len(data)) * float(self.clip), total // recipe.epochs
        params, trace = model.params, Trace.of(recipe.epochs)
        state = recipe.optimiser(total).init(model.net.trainable(params))
        for step in range(total):
            epoch, batch = divmod(step, per_epoch)
            order = np.asarray(jax.random.permutation(jax.random.fold_in(stream(key, "order"), epoch), len(data)))
            rows = order[batch * size : (batch + 1) * size]
            own = jax.random.fold_in(stream(key, "augment"), step)
            given = (own, params, data.x[rows], data.y[rows], np.ones(size, bool), float(self.clip))
            summed, (loss, right) = clipped_part(
                *given, net=model.net, method="auto", copies=1, augmentation=recipe.augmentation
            )
            tree = jax.random.fold_in(stream(key, "tree"), epoch)
            for level, number, sign in changes(batch + 1):
                summed = _noised(tree, summed, level, number, sign * deviation)
            params, state = _update(params, state, summed, size, net=model.net, recipe=recipe, total=total)
            loss, right = float(loss) / size, float(right) / size
            trace = trace.trained(epoch, loss, right, 1 / per_epoch)
            if (step + 1) % EVERY == 0 or step + 1 == total:
                if not np.isfinite(loss):
                    raise UserError(f"the loss is {loss} at step {step + 1}: lower the learning rate")
                run.report(Progress(step + 1, total, loss, right))
        return model.replace(params=params), Curve.read(trace, "last", 0, total)


def levels(steps: int) -> int:
    """Of a tree over so many steps: in how many of its nodes a step is at most, of those whose noise is ever added."""
    return steps.bit_length()


def changes(t: int) -> list[tuple[int, int, int]]:
    """What step t, from 1, changes in the noise of the sum: (level, number in its level, 1 or -1) of nodes; the node of
    steps (number - 1) 2^level + 1 to number 2^level. The nodes of 1..t are the binary digits of t.
    """
    top = (t & -t).bit_length() - 1
    return [(top, t >> top, 1)] + [(level, (t - 1) >> level, -1) for level in range(top)]


@jax.jit
def _noised(tree, summed, level, number, deviation):
    """The sum with a node's noise: always the same for the same node of the same tree."""
    node = jax.random.fold_in(jax.random.fold_in(tree, level), number)
    names = sorted(summed)
    keys = dict(zip(names, jax.random.split(node, len(names)), strict=True))
    return {k: v + deviation * jax.random.normal(keys[k], v.shape) for k, v in summed.items()}


@partial(jax.jit, static_argnames=("net", "recipe", "total"))
def _update(params, state, summed, size, *, net, recipe: Recipe, total: int):
    weights = net.trainable(params)
    moves, state = recipe.optimiser(total).update({k: v / size for k, v in summed.items()}, state, weights)
    return params | optax.apply_updates(weights, moves), state
