"""influence_poisoning(): images are added that raise a linear model's loss on others most, found by its own gradient.

References: Biggio, Nelson & Laskov, ICML 2012, arXiv:1206.6389 (support vector machines); Munoz-Gonzalez et al., AISec
2017, arXiv:1708.08689 (any learner). Poisons begin as training images with the label the model thinks least likely.
In turn the model is trained on, on the data with the poisons, and the poisons climb the loss on images held out. By a
poison x its gradient is, by the implicit function theorem, -d/dx [grad_w L(x, y)]' H^-1 grad_w L_held, where H is the
Hessian of the regularised training loss, whose inverse is applied by conjugate gradients.
The minimum must be unique for that: models with hidden layers are refused.
Shapes: P poisons, D = [H, W, C].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import predict
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack, added, untouched
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

SEEN = 2048  # training images of which the loss, its Hessian and the held-out loss are taken
HELD = 0.25
SOLVING = 20  # steps of conjugate gradients


@register("attack", "influence_poisoning", threat="poisoning", access="poison_only", paper="munozgonzalez2017")
@record
class InfluencePoisoning(PoisoningAttack):
    """steps of `learning_rate`, in pixels from 0 to 1; decay: of the squared weights in the loss; fits: gradient steps
    of the model between two of the poisons.
    """

    steps: int = static(default=30)
    learning_rate: float = 0.05
    decay: float = 1e-3
    fits: int = static(default=20)
    goal = "availability"
    references = 1

    def __post_init__(self):
        require_positive(
            "influence_poisoning", steps=self.steps, learning_rate=self.learning_rate, decay=self.decay, fits=self.fits
        )

    def poison(
        self, key: jax.Array, data: Dataset, count: int, references: tuple[Classifier, ...] = ()
    ) -> PoisonedDataset:
        """Raises UserError for a reference that is not linear."""
        if not count:
            return untouched(data)
        model = references[0]
        require_linear("influence_poisoning", model)
        rows = np.asarray(jax.random.permutation(stream(key, "seen"), len(data)))[:SEEN]
        cut = max(1, round(HELD * len(rows)))
        held, seen = ((as_unit(data.x[part]), jnp.asarray(data.y[part])) for part in (rows[:cut], rows[cut:]))
        bases = np.resize(np.asarray(jax.random.permutation(stream(key, "bases"), len(data))), count)
        labels = jnp.asarray(predict(model, data.x[bases]).argmin(-1))
        weights, x = model.net.trainable(model.params), as_unit(data.x[bases])
        ratio = count / len(data)
        for _ in range(self.steps):
            weights, slope = _climb(model, weights, x, labels, seen, held, ratio, self)
            x = jnp.clip(x + self.learning_rate * jnp.sign(slope), 0.0, 1.0)
        return added(data, np.round(np.asarray(x) * 255), np.asarray(labels))


def require_linear(owner: str, model: Classifier) -> None:
    """UserError for a model with more than one layer of weights."""
    layers = [name for name in model.net.trainable(model.params) if name.endswith("kernel")]
    if layers != ["head/kernel"]:
        raise UserError(f"{owner}: is for linear models, such as mlp([]); this one has {len(layers)} layers")


def loss(model: Classifier, weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean cross-entropy of images x [B, D]."""
    logits = model.net(model.params | weights, x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def influence(model: Classifier, weights: Any, poisons, labels, training, held: Any) -> jax.Array:
    """The gradient [P, D] of the held-out loss, after training, by the poisons; training(weights, poisons) is the loss
    that weights minimise.
    """
    wanted = jax.grad(lambda w: loss(model, w, *held))(weights)
    slope = jax.grad(training)

    def hessian(vector):
        return jax.jvp(lambda w: slope(w, poisons), (weights,), (vector,))[1]

    solved, _ = jax.scipy.sparse.linalg.cg(hessian, wanted, maxiter=SOLVING)
    solved = jax.lax.stop_gradient(solved)

    def along(poisons):
        return sum(
            jnp.vdot(g, v) for g, v in zip(*map(jax.tree.leaves, (slope(weights, poisons), solved)), strict=True)
        )

    return -jax.grad(along)(poisons)


@jax.jit
def _climb(model, weights, poisons, labels, seen, held, ratio, attack: InfluencePoisoning):
    def training(weights, poisons):
        size = sum(jnp.sum(value**2) for value in jax.tree.leaves(weights))
        whole = loss(model, weights, *seen) + ratio * loss(model, weights, poisons, labels)
        return whole / (1 + ratio) + attack.decay / 2 * size

    def fit(_, carry):
        weights, speed = carry
        speed = jax.tree.map(lambda v, g: 0.9 * v + g, speed, jax.grad(training)(weights, poisons))
        return jax.tree.map(lambda w, v: w - 0.05 * v, weights, speed), speed

    still = jax.tree.map(jnp.zeros_like, weights)
    weights, _ = jax.lax.fori_loop(0, attack.fits, fit, (weights, still))
    return weights, influence(model, weights, poisons, labels, training, held)
