"""dp_sgd(epsilon, delta): training that promises how little any one example can change its result.

Reference: Abadi et al., CCS 2016, arXiv:1607.00133. Each step draws every example by itself with probability q (Poisson
sampling: the batch's size varies), clips each one's gradient to `clip`, adds noise of standard deviation noise * clip
to the sum, and divides by the EXPECTED batch size. The recipe's optimiser takes that for its gradient: nothing after it
costs privacy. `copies` augmented copies of an example are averaged before clipping (De et al., 2022,
arXiv:2204.13650). A batch that is larger than the arrays are wide is added up in parts, never cut.
Departs from the paper: the accountant is that of ops/accounting.py. What the promise does not cover: the choice of
arguments by looking at results.
Shapes: N images, B batch, K copies.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.keys import stream
from robustbench_jax.learning_curve import Curve, Progress, Trace
from robustbench_jax.models.fixed_fronts import before, behind_front, fits_behind
from robustbench_jax.models.per_example import METHODS, clipped_sum, require_separate
from robustbench_jax.ops.accounting import ACCOUNTANTS, Guarantee, guarantee, noise_for
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.steps import augmented
from robustbench_jax.training import Run, Trained, TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

EVERY = 20


@register("training", "dp_sgd", paper="abadi2016", given=("witness",))
@record
class DPSGD(TrainingDefence):
    """epsilon, delta: of the whole training, for examples that are added or removed. noise: the multiplier itself, in
    which case epsilon follows from it; 0 for what epsilon needs. clipping: "ghost" makes no example's gradient where it
    can do without, "vmap" makes them all, "auto" is "ghost". accountant: "pld" or "rdp". witness: an auditor's, given
    by the program: insert(sum, drawn [count], clip) adds canaries that are sampled as examples are, and see(noisy,
    clip, promised, share) is told every step's gradient, share * (sum + noise).
    """

    epsilon: float = 3.0
    delta: float = 1e-5
    clip: float = 1.0
    noise: float = 0.0
    copies: int = static(default=1)
    clipping: str = "auto"
    accountant: str = "pld"
    witness: Any = static(default=None)

    def __post_init__(self):
        require_positive("dp_sgd", epsilon=self.epsilon, delta=self.delta, clip=self.clip, copies=self.copies)
        if isinstance(self.delta, float) and self.delta >= 1:
            raise UserError(f"dp_sgd: delta = {self.delta} must be below 1")
        if isinstance(self.noise, float) and self.noise < 0:
            raise UserError(f"dp_sgd: noise = {self.noise} must be at least 0")
        for name, allowed in (("clipping", METHODS), ("accountant", ACCOUNTANTS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"dp_sgd: {name} = {getattr(self, name)!r}; there are: {', '.join(allowed)}")

    def guarantee(self, recipe: Recipe, images: int) -> Guarantee:
        """What a training on so many images promises."""
        rate, steps = sampling(recipe, images)
        noise = float(self.noise) or noise_for(float(self.epsilon), rate, steps, float(self.delta), self.accountant)
        return guarantee(noise, rate, steps, float(self.delta), self.accountant)

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """A run that was killed begins anew. Raises UserError for batch norm and for a recipe that holds images out."""
        require_separate("dp_sgd", model.net, model.params)
        if recipe.augmentation == "none" and fits_behind(model, data):
            inner, curve = self.loop(key, *behind_front(model, data), recipe, run)
            return before(model, inner), curve
        if recipe.holdout or recipe.averages:
            raise UserError("dp_sgd: holdout, ema and swa of the recipe are not for it; leave them out")
        promised = self.guarantee(recipe, len(data))
        total, width = promised.steps, wide(promised.rate, len(data))
        optimiser = recipe.optimiser(total)
        params, state = model.params, optimiser.init(model.net.trainable(model.params))
        trace, per_epoch = Trace.of(recipe.epochs), max(total // recipe.epochs, 1)
        for step in range(total):
            own = jax.random.fold_in(stream(key, "step"), step)
            drawn = np.flatnonzero(np.asarray(_drawn(stream(own, "sample"), promised.rate, len(data))))
            summed, measured = None, []
            for at in range(0, max(len(drawn), 1), width):
                rows = np.resize(drawn[at : at + width], width) if len(drawn) else np.zeros(width, int)
                counted = np.arange(width) < min(len(drawn) - at, width)
                part = jax.random.fold_in(stream(own, "augment"), at)
                given = (part, params, data.x[rows], data.y[rows], counted, float(self.clip))
                more, seen = clipped_part(
                    *given, net=model.net, method=self.clipping, copies=self.copies, augmentation=recipe.augmentation
                )
                summed = more if summed is None else jax.tree.map(jnp.add, summed, more)
                measured.append(seen)
            if self.witness is not None:
                canaries = np.asarray(_drawn(stream(own, "canaries"), promised.rate, self.witness.count))
                summed = summed | self.witness.insert(summed, canaries, float(self.clip))
            scale = (promised.noise * float(self.clip), 1 / (promised.rate * len(data)))
            params, state, noisy = _update(
                stream(own, "noise"), params, state, summed, scale, net=model.net, recipe=recipe, total=total
            )
            if self.witness is not None:
                self.witness.see(noisy, float(self.clip), promised, scale[1])
            loss, right = (np.sum([m[i] for m in measured]) / max(len(drawn), 1) for i in (0, 1))
            trace = trace.trained(min(step // per_epoch, recipe.epochs - 1), loss, right, 1 / per_epoch)
            if (step + 1) % EVERY == 0 or step + 1 == total:
                if not np.isfinite(loss):
                    raise UserError(f"the loss is {loss} at step {step + 1}: lower the learning rate")
                run.report(Progress(step + 1, total, float(loss), float(right)))
        return model.replace(params=params), Curve.read(trace, "last", 0, total)


def sampling(recipe: Recipe, images: int) -> tuple[float, int]:
    """(rate, steps): the expected batch is the recipe's batch_size. UserError for fewer images."""
    if recipe.batch_size > images:
        raise UserError(
            f"batch_size = {recipe.batch_size}: there are {images} to train on; take batch_size={images} or less"
        )
    return recipe.batch_size / images, recipe.epochs * (images // recipe.batch_size)


def wide(rate: float, images: int) -> int:
    """Examples that are looked at at once: three standard deviations above the expected batch, or all."""
    return min(images, math.ceil(rate * images + 3 * math.sqrt(rate * (1 - rate) * images) + 1))


@partial(jax.jit, static_argnames="images")
def _drawn(key: jax.Array, rate: float, images: int) -> jax.Array:
    return jax.random.bernoulli(key, rate, (images,))


@partial(jax.jit, static_argnames=("net", "method", "copies", "augmentation"))
def clipped_part(key, params, x, y, counted, norm, *, net, method: str, copies: int, augmentation: str):
    """(sum of clipped gradients, [loss, right] summed over the examples that count)."""
    keys = jax.random.split(key, copies)
    every = jnp.stack([augmented(own, x, augmentation) for own in keys], axis=1)
    summed, _, logits = clipped_sum(net, params, every, y, counted, norm, method)
    loss, right = optax.softmax_cross_entropy_with_integer_labels(logits, y), jnp.argmax(logits, -1) == y
    return summed, jnp.stack([jnp.sum(jnp.where(counted, v, 0.0)) for v in (loss, right)])


@partial(jax.jit, static_argnames=("net", "recipe", "total"))
def _update(key, params, state, summed, scale, *, net, recipe: Recipe, total: int) -> tuple[Any, Any, Any]:
    deviation, share = scale
    names = sorted(summed)
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    noisy = {k: share * (v + deviation * jax.random.normal(keys[k], v.shape)) for k, v in summed.items()}
    weights = net.trainable(params)
    changes, state = recipe.optimiser(total).update(noisy, state, weights)
    return params | optax.apply_updates(weights, changes), state, noisy
