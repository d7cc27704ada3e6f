"""mi_face(): images of a class that a model is surest of.

Reference: Fredrikson, Jha & Ristenpart, CCS 2015 (MI-Face): gradient descent on 1 - p(class) with a step between that
makes the image plausible. Here the loss is the cross-entropy, which does not go flat, with total variation and the
squared size of the change from the start as the image prior, by Adam; it begins at grey with a little noise.
prior_sample() is the control: it hands in noise of the same smoothness, which no model was asked about.
Shapes: B images, D = [H, W, C].
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.keys import stream
from robustbench_jax.ops.similarity import total_variation
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, record, require_positive, static

COARSE = 7  # cells of the noise on a side


class ModelInversion:
    """What a registered model inversion is."""

    registered: tuple[str, str]
    facts: dict[str, Any]

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("reconstructions",)

    def public_classes(self) -> tuple[str, ...]:
        """The classes of images that the attacker has beside the model; none where he has no images."""
        return ()

    def invert(self, key: jax.Array, model: Classifier, labels: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Images [B, D] in [0, 1], one for each of the classes labels [B]. The key is consumed."""
        raise NotImplementedError


@register("attack", "mi_face", threat="model_inversion", access="gradients", paper="fredrikson2015")
@record
class MIFace(ModelInversion):
    """steps of Adam with `learning_rate`; tv, size: weights of the total variation and of the squared change."""

    steps: int = static(default=500)
    learning_rate: float = 0.02
    tv: float = 1.0
    size: float = 0.1

    def __post_init__(self):
        require_positive("mi_face", steps=self.steps, learning_rate=self.learning_rate)

    def invert(self, key: jax.Array, model: Classifier, labels: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        start = jnp.clip(0.5 + 0.1 * jax.random.normal(key, (len(labels), *shape)), 0.0, 1.0)
        x, adam = start, optax.scale_by_adam().init(start)
        for _ in range(self.steps):
            x, adam = _step(model, labels, x, adam, start, self)
        return x


@register("attack", "prior_sample", threat="model_inversion", access="none", paper="fredrikson2015")
@record
class PriorSample(ModelInversion):
    """Smooth noise: what the judge makes of images that say nothing of the model."""

    def invert(self, key: jax.Array, model: Classifier, labels: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        height, width, channels = shape
        coarse = (min(COARSE, height), min(COARSE, width), channels)
        noise = jax.random.uniform(stream(key, "noise"), (len(labels), *coarse))
        return jax.image.resize(noise, (len(labels), *shape), "linear")


@jax.jit
def _step(model, labels, x, adam, start, attack: MIFace):
    def loss(x):
        logits = jax.vmap(model)(x)
        wanted = jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        prior = attack.tv * jnp.sum(jax.vmap(total_variation)(x))
        return wanted + prior + attack.size * jnp.sum((x - start) ** 2) / x[0].size

    change, adam = optax.scale_by_adam().update(jax.grad(loss)(x), adam)
    return jnp.clip(x - attack.learning_rate * change, 0.0, 1.0), adam
