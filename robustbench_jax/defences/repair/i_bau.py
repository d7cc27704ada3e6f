"""i_bau(): the model unlearns the universal perturbation that hurts it most, by the gradient through that maximum.

Reference: Zeng et al., ICLR 2022, arXiv:2110.03735: rounds of an inner maximum over one perturbation for all images,
and outer steps by the implicit hypergradient, whose inverse Hessian is a fixed-point iteration of K steps.
Departs from the paper: the inner maximum is found by steps of gradient ascent of a fixed length in an L2 ball; its
penalty on the perturbation is that of the reference implementation.
Shapes: B batch, D input shape.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.defences.repair.repair import Repair
from robustbench_jax.keys import stream
from robustbench_jax.ops.balls import L2
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static

ADAM = optax.scale_by_adam()
PENALTY = 1e-3  # of the squared norm of the perturbation, in the inner problem
PULL = 0.1  # step of the fixed-point map


@register("model_defence", "i_bau", paper="zeng2022", repairs=True)
@record
class IBAU(Repair):
    """rounds, each with `ascent` steps on the perturbation, whose L2 norm stays below `radius`, and `steps` of Adam on
    the weights; fixed_point: K.
    """

    rounds: int = static(default=5)
    steps: int = static(default=20)
    ascent: int = static(default=20)
    batch: int = static(default=100)
    radius: float = 3.0
    learning_rate: float = 1e-3
    fixed_point: int = static(default=5)

    def __post_init__(self):
        require_positive("i_bau", batch=self.batch, radius=self.radius, fixed_point=self.fixed_point)

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        order = np.random.default_rng(int(jax.random.bits(stream(key, "rows"))))
        weights = classifier.net.trainable(classifier.params)
        adam, size = ADAM.init(weights), min(self.batch, len(data))
        for _ in range(self.rounds):
            delta = jnp.zeros(data.x.shape[1:])
            for _ in range(self.ascent):
                rows = order.choice(len(data), size, replace=False)
                delta = _ascend(classifier, weights, delta, data.x[rows], data.y[rows], self)
            for _ in range(self.steps):
                rows = order.choice(len(data), size, replace=False)
                weights, adam = _descend(classifier, weights, delta, adam, data.x[rows], data.y[rows], self)
        return classifier.replace(params=classifier.params | weights)


def hypergradient(inner, outer, delta: jax.Array, weights, terms: int):
    """d outer(delta*, weights) / d weights, where delta* minimises inner(delta, weights); delta is near to it.

    It solves v = v - PULL H v + d outer / d delta by `terms` steps from there, H being the Hessian of inner, so that
    v tends to the inverse of PULL H times that gradient.
    """
    by_delta, by_weights = jax.grad(outer, (0, 1))(delta, weights)
    _, pull = jax.vjp(lambda d, w: d - PULL * jax.grad(inner)(d, w), delta, weights)
    v = by_delta
    for _ in range(terms):
        v = pull(v)[0] + by_delta
    return jax.tree.map(jnp.add, by_weights, pull(v)[1])


def _loss(classifier, delta, weights, x, y):
    model = classifier.replace(params=classifier.params | weights)
    logits = jax.vmap(model)(jnp.clip(x + delta, 0, 1))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


@jax.jit
def _ascend(classifier, weights, delta, x, y, settings):
    gradient = jax.grad(_loss, 1)(classifier, delta, weights, as_unit(x), y)
    moved = delta + 0.2 * settings.radius * L2(1.0).steepest(gradient)
    return moved * jnp.minimum(1, settings.radius / jnp.maximum(jnp.linalg.norm(moved.ravel()), 1e-12))


@jax.jit
def _descend(classifier, weights, delta, adam, x, y, settings):
    x = as_unit(x)

    def outer(delta, weights):
        return _loss(classifier, delta, weights, x, y)

    def inner(delta, weights):
        return PENALTY * jnp.sum(delta**2) - outer(delta, weights)

    gradient = hypergradient(inner, outer, delta, weights, settings.fixed_point)
    changes, adam = ADAM.update(gradient, adam)
    return jax.tree.map(lambda w, c: w - settings.learning_rate * c, weights, changes), adam
