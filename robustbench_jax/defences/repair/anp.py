"""anp(): units that an adversary can easily turn against the model are removed.

Reference: Wu & Wang, NeurIPS 2021, arXiv:2110.14430. Masks m in [0, 1], one a unit, minimise
alpha L(m w, b) + (1 - alpha) max L((m + delta) w, (1 + xi) b) over |delta|, |xi| <= eps; units below a threshold go.
Departs from the paper: units are channels of kernels, also where batch norm follows; the threshold is the highest one
that costs held-out trusted images no more than `tolerance` of accuracy.
Shapes: U units of a layer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.defences.repair.repair import Repair, accuracy, kernels, require_share, split
from robustbench_jax.keys import stream
from robustbench_jax.models.net import Params
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static


@register("model_defence", "anp", paper="wu2021", repairs=True)
@record
class ANP(Repair):
    """eps: of the adversary; alpha: weight of the loss without him; steps of SGD on the masks with momentum 0.9.
    tolerance, held: see fine_pruning; spacing: between thresholds.
    """

    eps: float = 0.4
    alpha: float = 0.2
    steps: int = static(default=500)
    batch: int = static(default=64)
    learning_rate: float = 0.2
    spacing: float = 0.05
    tolerance: float = 0.1
    held: float = 0.2

    def __post_init__(self):
        require_positive("anp", eps=self.eps, batch=self.batch, spacing=self.spacing)
        require_share("anp", alpha=self.alpha, tolerance=self.tolerance, held=self.held)

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        used, held = split(key, data, self.held)
        masks = self.masks(key, classifier, used)
        best, least = classifier, accuracy(classifier, held) - self.tolerance
        for threshold in np.arange(self.spacing, 1.0, self.spacing):
            trial = scaled(classifier.params, {k: (m > threshold) * 1.0 for k, m in masks.items()})
            trial = classifier.replace(params=trial)
            if accuracy(trial, held) < least - 1e-9:
                break
            best = trial
        return best

    def masks(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Params:
        """One number a unit, [U] by the name of its kernel."""
        masks = {name: jnp.ones(classifier.params[name].shape[-1]) for name in kernels(classifier.params)}
        speed, rows = jax.tree.map(jnp.zeros_like, masks), np.random.default_rng(_seed(stream(key, "rows")))
        for step in range(self.steps):
            ids = rows.choice(len(data), min(self.batch, len(data)), replace=False)
            own = jax.random.fold_in(stream(key, "adversary"), step)
            masks, speed = _step(own, classifier, masks, speed, data.x[ids], data.y[ids], self)
        return masks


def scaled(params: Params, factors: Params, biases: Params | None = None) -> Params:
    """Each kernel times its factors [U]; each of its biases times those of `biases`."""
    params = params | {name: params[name] * factor for name, factor in factors.items()}
    own = {_bias(name): factor for name, factor in (biases or {}).items() if _bias(name) in params}
    return params | {name: params[name] * factor for name, factor in own.items()}


def _bias(name: str) -> str:
    return name.removesuffix("kernel") + "bias"


def _seed(key: jax.Array) -> int:
    return int(jax.random.bits(key))


@jax.jit
def _step(key, classifier, masks, speed, x, y, anp):
    x = as_unit(x)

    def loss(masks, delta, xi):
        factors = {name: masks[name] + delta[name] for name in masks}
        model = classifier.replace(params=scaled(classifier.params, factors, {k: 1 + v for k, v in xi.items()}))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y))

    start = [_uniform(stream(key, name), masks, anp.eps) for name in ("delta", "xi")]
    gradients = jax.grad(loss, (1, 2))(masks, *start)
    delta, xi = jax.tree.map(lambda at, g: jnp.clip(at + anp.eps * jnp.sign(g), -anp.eps, anp.eps), start, [*gradients])
    none = jax.tree.map(jnp.zeros_like, masks)

    def both(masks):
        return anp.alpha * loss(masks, none, none) + (1 - anp.alpha) * loss(masks, delta, xi)

    speed = jax.tree.map(lambda v, g: 0.9 * v + g, speed, jax.grad(both)(masks))
    return jax.tree.map(lambda m, v: jnp.clip(m - anp.learning_rate * v, 0, 1), masks, speed), speed


def _uniform(key, like, eps):
    return {name: jax.random.uniform(stream(key, name), v.shape, minval=-eps, maxval=eps) for name, v in like.items()}
