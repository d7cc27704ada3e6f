"""anp(eps, drop): units that matter when weights are perturbed adversarially are cut off.

Reference: Wu & Wang, NeurIPS 2021, arXiv:2110.14430. Masks m in [0, 1] of all units before the head are trained on
trusted images against perturbations of the units' scales: min over m of alpha * L(m) + (1 - alpha) * max over |d|, |b|
<= eps of L((m + d) w, (1 + b) bias). Units whose mask falls are pruned, the lowest first, while accuracy on held-out
trusted images stays within `drop`.
Departs from the paper: the perturbation is one signed step from a random start at each iteration, as in its code; the
share that is pruned is chosen by held-out images, not given as a threshold.
Shapes: U units of all layers together.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.defences.repair.repair import Repair, accuracy, layers
from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

MOMENTUM = 0.9


@register("model_defence", "anp", paper="wu2021", repairs=True)
@record
class ANP(Repair):
    """eps: of the perturbation; alpha: weight of the unperturbed loss; steps of `learning_rate` on `batch` images."""

    eps: float = 0.4
    alpha: float = 0.2
    drop: float = 0.04
    learning_rate: float = 0.2
    steps: int = static(default=500)
    batch: int = static(default=128)

    def __post_init__(self):
        require_positive("anp", eps=self.eps, steps=self.steps, batch=self.batch, learning_rate=self.learning_rate)
        for name in ("alpha", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"anp: {name} = {getattr(self, name)} must be from 0 to 1")

    def repaired(self, key: jax.Array, model: Classifier, data: Dataset, held: Dataset) -> Classifier:
        names = tuple(layers(model))
        masks = {name: jnp.ones(model.params[name].shape[-1]) for name in names}
        trail, size = jax.tree.map(jnp.zeros_like, masks), min(self.batch, len(data))
        for step in range(self.steps):
            own = jax.random.fold_in(stream(key, "step"), step)
            rows = np.asarray(jax.random.permutation(stream(own, "rows"), len(data)))[:size]
            numbers = (self.eps, self.alpha, self.learning_rate)
            masks, trail = _step(own, model, masks, trail, data.x[rows], data.y[rows], numbers)
        return pruned(model, {name: np.asarray(mask) for name, mask in masks.items()}, held, self.drop)


def pruned(model: Classifier, masks: dict[str, np.ndarray], held: Dataset, drop: float) -> Classifier:
    """Without the units of the lowest masks: as many, in steps of a fiftieth of them, as held-out images allow."""
    ordered = np.sort(np.concatenate(list(masks.values())))
    least, best = accuracy(model, held) - drop, model
    for share in np.arange(1, 50) / 50:
        limit = ordered[int(share * len(ordered)) - 1] if int(share * len(ordered)) else -np.inf
        if limit >= 1.0 - 1e-6:
            break  # what was never lowered stays
        kept = {name: jnp.asarray(mask > limit, jnp.float32) for name, mask in masks.items()}
        candidate = model.replace(params=perturbed(model.params, kept, None))
        if accuracy(candidate, held) < least:
            break
        best = candidate
    return best


def perturbed(params: dict, masks: dict, shifts: dict | None) -> dict:
    """The arrays with each layer's units times their masks, and biases also times 1 + their shifts."""
    out = dict(params)
    for name, mask in masks.items():
        bias = name.removesuffix("kernel") + "bias"
        kernel_shift, bias_shift = (0.0, 0.0) if shifts is None else shifts[name]
        out[name] = params[name] * (mask + kernel_shift)
        if bias in params:
            out[bias] = params[bias] * ((mask if shifts is None else 1.0) + bias_shift)
    return out


@jax.jit
def _step(key, model, masks, trail, x, y, numbers):
    eps, alpha, rate = numbers
    x = as_unit(x)

    def loss(masks, shifts):
        logits = model.net(perturbed(model.params, masks, shifts), x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    start = {
        name: tuple(jax.random.uniform(stream(key, f"{name} {i}"), mask.shape, minval=-eps, maxval=eps) for i in (0, 1))
        for name, mask in masks.items()
    }
    worst = jax.tree.map(
        lambda s, g: jnp.clip(s + eps * jnp.sign(g), -eps, eps), start, jax.grad(loss, argnums=1)(masks, start)
    )
    still = jax.tree.map(jnp.zeros_like, start)
    slope = jax.grad(lambda m: alpha * loss(m, still) + (1 - alpha) * loss(m, worst))(masks)
    trail = jax.tree.map(lambda t, g: MOMENTUM * t + g, trail, slope)
    return jax.tree.map(lambda m, t: jnp.clip(m - rate * t, 0.0, 1.0), masks, trail), trail
