"""What inversions share that search among the codes of a generator, which was trained on public images.

The generator is a variational autoencoder, or (kedmi.py) that of a GAN; its public images must have no class in common
with the victim's (the threat sees to that), or it would bring along what is to be found.
Shapes: B reconstructions, Z entries of a code, D = [H, W, C].
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.attacks.privacy.model_inversion import ModelInversion
from robustbench_jax.keys import stream
from robustbench_jax.models.blocks import flatten
from robustbench_jax.models.variational import build_variational, decode, divergence, pixel_logits
from robustbench_jax.training import TrainingDefence, fit
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@record
class Evidence(TrainingDefence):
    """The bound on the evidence: cross-entropy of the pixels from a drawn code, and its divergence, summed in nats."""

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        mean, logarithm = jnp.split(logits, 2, axis=-1)
        z = mean + jnp.exp(logarithm / 2) * jax.random.normal(key, mean.shape)
        pixels = optax.sigmoid_binary_cross_entropy(pixel_logits(model, z), flatten(clean))
        return jnp.mean(jnp.sum(pixels, -1) + divergence(logits))


@record
class FromPublic(ModelInversion):
    """public: a dataset whose training images the generator sees; no label of theirs is used."""

    public: Any = static()

    def public_classes(self) -> tuple[str, ...]:
        return self.public.load("train", None).classes

    def public_images(self, shape: tuple[int, ...]) -> Dataset:
        """Raises UserError where they have another shape than the victim's."""
        data = self.public.load("train", None)
        if data.x.shape[1:] != tuple(shape):
            name, seen = self.registered[1], list(data.x.shape[1:])
            raise UserError(f"{name}: public images have shape {seen}, those of the victim {list(shape)}")
        return data


@record
class Generating(FromPublic):
    """codes: Z; width: of the generator's hidden layers; recipe: of its training."""

    codes: int = static(default=20)
    width: int = static(default=256)
    recipe: Any = static(default="adamw(epochs=30, learning_rate=0.003, weight_decay=0)")

    def __post_init__(self):
        require_positive(self.registered[1], codes=self.codes, width=self.width)

    def generator(self, key: jax.Array, shape: tuple[int, ...]) -> Classifier:
        """Trained on the public images. Raises UserError where they have another shape. The key is consumed."""
        data = self.public_images(shape)
        fresh = build_variational(self.codes, self.width, shape, stream(key, "weights"))
        return fit(stream(key, "train"), fresh, data, self.recipe, defence=Evidence())

    def invert(self, key: jax.Array, model: Classifier, labels: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        generator = self.generator(stream(key, "generator"), shape)
        return decode(generator, self.search(stream(key, "search"), generator, model, labels, shape), shape)

    def search(self, key, generator: Classifier, model: Classifier, labels: jax.Array, shape: tuple) -> jax.Array:
        """Codes [B, Z], one for each of the classes labels [B]. The key is consumed."""
        raise NotImplementedError
