"""Images from the gradients that they gave: analytic, dlg, idlg, inverting_gradients.

References: analytic: Phong et al., IEEE TIFS 2018 (a dense first layer): of its row i, image = dW_i / db_i. DLG: Zhu,
Liu & Han, NeurIPS 2019, arXiv:1906.08935: the squared distance of gradients is minimised over images and soft labels by
L-BFGS. iDLG: Zhao et al., 2020, arXiv:2001.02610: the label of a single image is where the head's bias gradient is
negative. Inverting Gradients: Geiping et al., NeurIPS 2020, arXiv:2003.14053: one minus the cosine of gradients plus
total variation, by signed Adam steps whose rate falls at 3/8, 5/8 and 7/8 of the steps.
inverting_gradients is told the labels, as its paper assumes for batches; dlg finds them, idlg and analytic read them
off. Restarts are chosen by their own objective, never by the images.
Shapes: B images of a batch, D = [H, W, C], K classes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.keys import stream
from robustbench_jax.ops.similarity import total_variation
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, UserError, record, require_positive, static


class GradientInversion:
    """What a registered attack on shared gradients is. largest: of the batches that it is for; 0 for any."""

    registered: tuple[str, str]
    facts: dict[str, Any]
    largest = 0

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("gradients",)

    def invert(
        self, key: jax.Array, model: Classifier, sent: dict, labels: jax.Array, shape: tuple[int, ...], classes: int
    ) -> tuple[jax.Array, jax.Array]:
        """(images [B, D], labels [B]) from a gradient. labels [B]: the true ones, for those that are told. The key is
        consumed.
        """
        raise NotImplementedError


def gradient(model: Classifier, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    """Of the mean cross-entropy of images [B, D] with labels [B], or shares of the classes [B, K], by the weights."""

    def loss(weights):
        logits = model.net(model.params | weights, x)
        shares = jax.nn.one_hot(y, logits.shape[-1]) if y.ndim == 1 else y
        return jnp.mean(optax.softmax_cross_entropy(logits, shares))

    return jax.grad(loss)(model.net.trainable(model.params))


def label_of(owner: str, sent: dict[str, jax.Array]) -> jax.Array:
    """int [1]: where the head's bias gradient is smallest, p - 1 of the one image's class."""
    if "head/bias" not in sent:
        raise UserError(f"{owner}: the model's head has no bias to read the label off")
    return jnp.argmin(sent["head/bias"])[None]


@register("attack", "analytic", threat="gradient_inversion", access="gradients", paper="phong2018")
@record
class Analytic(GradientInversion):
    """For one image and a model whose first layer is dense, such as mlp."""

    largest = 1

    def invert(self, key, model, sent, labels, shape, classes):
        first = next((n for n in ("hidden/0", "head") if f"{n}/kernel" in sent), None)
        if first is None or sent[f"{first}/kernel"].shape[0] != int(np.prod(shape)):
            raise UserError("analytic: is for models whose first layer is dense, such as mlp([64])")
        kernel, bias = sent[f"{first}/kernel"], sent[f"{first}/bias"]
        unit = jnp.argmax(jnp.abs(bias))
        image = kernel[:, unit] / jnp.where(bias[unit] == 0, 1.0, bias[unit])
        mean, std = (model.params.get(f"normalise/{part}") for part in ("mean", "std"))
        image = image.reshape(shape) if mean is None else image.reshape(shape) * std + mean
        return jnp.clip(image, 0.0, 1.0)[None], label_of("analytic", sent)


@register("attack", "dlg", threat="gradient_inversion", access="gradients", paper="zhu2019dlg")
@record
class DLG(GradientInversion):
    """steps of L-BFGS, from noise; of `restarts` the one of the smallest distance."""

    steps: int = static(default=100)
    restarts: int = static(default=4)
    knows_label = False

    def __post_init__(self):
        require_positive(self.registered[1], steps=self.steps, restarts=self.restarts)

    def invert(self, key, model, sent, labels, shape, classes):
        known = label_of(self.registered[1], sent) if self.knows_label else None
        best, least = None, np.inf
        for restart in range(self.restarts):
            own = jax.random.fold_in(key, restart)
            start = {"x": jax.random.uniform(stream(own, "x"), (len(labels), *shape))}
            if known is None:
                start["y"] = jax.random.normal(stream(own, "y"), (len(labels), classes))
            found, distance = _lbfgs(model, sent, start, known, steps=self.steps)
            best, least = (found, float(distance)) if float(distance) < least or best is None else (best, least)
        said = jnp.argmax(best["y"], -1) if known is None else known
        return jnp.clip(best["x"], 0.0, 1.0), said


@register("attack", "idlg", threat="gradient_inversion", access="gradients", paper="zhao2020idlg")
@record
class IDLG(DLG):
    """As dlg, for one image, whose label is read off first."""

    steps: int = static(default=100)
    restarts: int = static(default=4)
    largest = 1
    knows_label = True


@register("attack", "inverting_gradients", threat="gradient_inversion", access="gradients", paper="geiping2020")
@record
class InvertingGradients(GradientInversion):
    """steps of `learning_rate`; tv: weight of the total variation; of `restarts` the one of the smallest objective."""

    steps: int = static(default=1000)
    learning_rate: float = 0.1
    tv: float = 0.01
    restarts: int = static(default=1)

    def __post_init__(self):
        require_positive("inverting_gradients", steps=self.steps, restarts=self.restarts)

    def invert(self, key, model, sent, labels, shape, classes):
        best, least = None, np.inf
        ends = np.array([3, 5, 7]) / 8 * self.steps
        for restart in range(self.restarts):
            x = jax.random.uniform(jax.random.fold_in(key, restart), (len(labels), *shape))
            adam, value = optax.scale_by_adam().init(x), jnp.inf
            for step in range(self.steps):
                rate = self.learning_rate * 10.0 ** -float(np.sum(step >= ends))
                x, adam, value = _signed(model, sent, labels, x, adam, rate, self.tv)
            best, least = (x, float(value)) if float(value) < least or best is None else (best, least)
        return best, labels


def distance(model: Classifier, sent: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """Squared, of the gradient of x, y from what was sent."""
    own = gradient(model, x, y)
    return sum(jnp.sum((own[name] - value) ** 2) for name, value in sent.items())


def objective(model: Classifier, sent: dict, x: jax.Array, y: jax.Array, tv: Any) -> jax.Array:
    """One minus the cosine of gradients, and the total variation of the images."""
    own = gradient(model, x, y)
    dot = sum(jnp.vdot(own[name], value) for name, value in sent.items())
    sizes = [jnp.sqrt(jnp.maximum(sum(jnp.sum(v**2) for v in it.values()), 1e-30)) for it in (own, sent)]
    return 1 - dot / jnp.maximum(sizes[0] * sizes[1], 1e-20) + tv * jnp.mean(jax.vmap(total_variation)(x))


@jax.jit
def _signed(model, sent, y, x, adam, rate, tv):
    value, slope = jax.value_and_grad(lambda x: objective(model, sent, x, y, tv))(x)
    change, adam = optax.scale_by_adam().update(jnp.sign(slope), adam)
    return jnp.clip(x - rate * change, 0.0, 1.0), adam, value


@partial(jax.jit, static_argnames="steps")
def _lbfgs(model, sent, start, known, *, steps: int):
    def value(state):
        return distance(model, sent, state["x"], jax.nn.softmax(state["y"]) if known is None else known)

    solver = optax.lbfgs(memory_size=10)
    both = optax.value_and_grad_from_state(value)

    def step(_, carry):
        state, memory = carry
        now, slope = both(state, state=memory)
        change, memory = solver.update(slope, memory, state, value=now, grad=slope, value_fn=value)
        moved = optax.apply_updates(state, change)
        whole = jnp.all(jnp.stack([jnp.all(jnp.isfinite(v)) for v in jax.tree.leaves(moved)]))
        return jax.tree.map(lambda a, b: jnp.where(whole, a, b), moved, state), memory

    found, _ = jax.lax.fori_loop(0, steps, step, (start, solver.init(start)))
    return found, value(found)
