"""data_free(): a generator makes images on which clone and victim differ, and the clone learns from the answers.

References: DFME, Truong et al., CVPR 2021, arXiv:2011.14779; MAZE, Kariyappa et al., CVPR 2021, arXiv:2005.03161. Both
play on the L1 distance of centred log-probabilities; the generator's gradient through the victim is estimated by
forward differences, which cost queries as well.
Departs from the papers: the generator is dense, which suits small images; both players use Adam.
Shapes: B batch, Z = 64 of the noise, C classes, D = [H, W, C'].
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.attacks.extraction.equation_solving import centred
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.registry import canonical, register
from robustbench_jax.thefts import ExtractionAttack, Oracle, Stolen
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

NOISE, HIDDEN = 64, 512
DIFFERENCE = 1e-3  # of forward differences; below it float32 loses them
FLOOR = 1e-6  # of probabilities, so that one that is zero is no infinite logit


@register("attack", "data_free", threat="extraction", access="scores", paper="truong2021")
@record
class DataFree(ExtractionAttack):
    """model: the clone's architecture. batch: images at once; clone_steps: for each step of the generator; directions:
    of each forward difference. rate: of the clone; generator_rate: of the generator.
    """

    model: str = static(default="cnn")
    batch: int = static(default=64)
    clone_steps: int = static(default=5)
    directions: int = static(default=1)
    rate: float = 1e-3
    generator_rate: float = 5e-4

    def __post_init__(self):
        canonical("model", self.model)
        require_positive("data_free", batch=self.batch, clone_steps=self.clone_steps, directions=self.directions)
        require_positive("data_free", rate=self.rate, generator_rate=self.generator_rate)

    @property
    def round(self) -> int:
        """Queries of one step of the generator and the clone's steps that follow it."""
        return self.batch * (1 + self.directions + self.clone_steps)

    def require(self, oracle: Oracle, shape: tuple[int, ...], classes: int) -> None:
        if oracle.budget < self.round:
            raise UserError(f"queries({oracle.budget}): 'data_free' needs {self.round} for one round; lower its batch")

    def steal(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> Stolen:
        shape = pool.x.shape[1:]
        clone = build_model(self.model, shape, len(pool.classes), stream(key, "clone"))
        maker = generator(stream(key, "generator"), shape)
        rounds = oracle.left // self.round
        learners = [optax.adam(optax.cosine_decay_schedule(rate, steps)) for rate, steps in self._rates(rounds)]
        weights = clone.net.trainable(clone.params)
        states = [learners[0].init(weights), learners[1].init(maker)]
        for number in range(rounds):
            own = jax.random.fold_in(key, number)
            x = drawn(maker, stream(own, "noise"), self.batch, shape)
            ways = directions(stream(own, "ways"), self.directions, x.shape)
            asked = jnp.clip(jnp.concatenate([x[None], x + DIFFERENCE * ways]), 0, 1)
            said = self._ask(oracle, asked.reshape(-1, *shape)).reshape(*asked.shape[:2], -1)
            slope = against(clone, asked, said)
            changes, states[1] = learners[1].update(
                pulled(maker, stream(own, "noise"), slope, self.batch, shape), states[1], maker
            )
            maker = optax.apply_updates(maker, changes)
            for step in range(self.clone_steps):
                again = jax.random.fold_in(own, step)
                x = drawn(maker, again, self.batch, shape)
                clone, states[0] = learnt(clone, states[0], x, self._ask(oracle, x), again, learner=learners[0])
        return Stolen(clone)

    def _rates(self, rounds: int) -> tuple[tuple[float, int], tuple[float, int]]:
        return (float(self.rate), rounds * self.clone_steps), (float(self.generator_rate), rounds)

    def _ask(self, oracle: Oracle, x: jax.Array) -> np.ndarray:
        answers = oracle.ask(np.asarray(x))
        answers = np.where(np.isnan(answers), 1 / answers.shape[1], answers)
        return centred(np.maximum(answers, FLOOR)).astype(np.float32)


def generator(key: jax.Array, shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """Fresh weights of a network from noise [Z] to images."""
    first, second = jax.random.split(key)
    size = int(np.prod(shape))
    return {
        "in": jax.random.normal(first, (NOISE, HIDDEN)) / np.sqrt(NOISE),
        "in_bias": jnp.zeros(HIDDEN),
        "out": jax.random.normal(second, (HIDDEN, size)) * 2 / np.sqrt(HIDDEN),
        "out_bias": jnp.zeros(size),
    }


@partial(jax.jit, static_argnames=("count", "shape"))
def drawn(maker: dict, key: jax.Array, count: int, shape: tuple[int, ...]) -> jax.Array:
    """float32 [count, D] in [0, 1]."""
    noise = jax.random.normal(key, (count, NOISE))
    hidden = jax.nn.leaky_relu(noise @ maker["in"] + maker["in_bias"], 0.2)
    hidden = (hidden - hidden.mean(0)) / (hidden.std(0) + 1e-3)  # over the batch, so that images stay different
    return jax.nn.sigmoid(hidden @ maker["out"] + maker["out_bias"]).reshape(count, *shape)


@partial(jax.jit, static_argnames=("count", "shape"))
def pulled(maker: dict, key: jax.Array, slope: jax.Array, count: int, shape: tuple[int, ...]) -> dict:
    """The generator's gradients, where images have the gradients `slope` [B, D]."""
    return jax.vjp(lambda maker: drawn(maker, key, count, shape), maker)[1](slope)[0]


def directions(key: jax.Array, count: int, shape: tuple[int, ...]) -> jax.Array:
    """[count, B, D], each image's of length 1."""
    found = jax.random.normal(key, (count, *shape))
    return found / jnp.sqrt(jnp.sum(found**2, axis=tuple(range(2, found.ndim)), keepdims=True))


@jax.jit
def against(clone: Classifier, asked: jax.Array, said: jax.Array) -> jax.Array:
    """[B, D]: the gradient of minus the distance to the victim, by differences between the images asked[0] and those
    beside them, asked[1:]; said [1 + m, B, C] are the victim's centred log-probabilities.
    """
    own = jax.vmap(jax.vmap(clone))(asked)
    apart = jnp.abs(_centred(own) - said).sum(-1)
    rise = (apart[1:] - apart[0]) / DIFFERENCE
    ways = (asked[1:] - asked[0]) / DIFFERENCE  # shorter where the box ends
    size = np.prod(asked.shape[2:])
    return -size * jnp.mean(rise.reshape(*rise.shape, *(1,) * (asked.ndim - 2)) * ways, 0) / asked.shape[1]


@partial(jax.jit, static_argnames="learner")
def learnt(clone: Classifier, state: Any, x: jax.Array, said: jax.Array, key: jax.Array, *, learner) -> tuple:
    """The clone after one step towards the victim's centred log-probabilities said [B, C] of x [B, D]."""
    weights = clone.net.trainable(clone.params)

    def loss(weights):
        logits, params = clone.net.train(clone.params | weights, x, key)
        return jnp.mean(jnp.abs(_centred(logits) - said).sum(-1)), params

    gradients, params = jax.grad(loss, has_aux=True)(weights)
    changes, state = learner.update(gradients, state, weights)
    return clone.replace(params=params | optax.apply_updates(weights, changes)), state


def _centred(logits: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(logits)
    return logs - logs.mean(-1, keepdims=True)
