"""magnet(): no answer to images that an autoencoder of clean ones does not reproduce; the others are reformed by it.

Reference: MagNet, Meng & Chen, CCS 2017, arXiv:1705.09064: detectors by reconstruction error and by the Jensen-Shannon
divergence of the two answers, and the reformer, with which the model sees the reconstruction. Broken by Carlini &
Wagner, 2017, arXiv:1711.08478.
Departs from the paper: one autoencoder serves all three, and each detector's score is divided by its own 1 - fpr
quantile over training images, so that the larger one decides, where that has a threshold for each.
Shapes: D = [H, W, C] input shape, K detectors, N images. Written for one example.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.defences.serving.detector import Detector, Score
from robustbench_jax.keys import stream
from robustbench_jax.models.autoencoder import build_autoencoder
from robustbench_jax.models.blocks import flatten
from robustbench_jax.models.features import each
from robustbench_jax.models.fronted import Fronted
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence, fit
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@record
class Reformer(Preprocessing):
    """What the autoencoder makes of the image."""

    autoencoder: Classifier

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        return self.autoencoder(x).reshape(x.shape)


@record
class Reconstruction(Score):
    """The largest of K scores, in `units` [K]: mean |x - reformed|^norm and, with a temperature, the divergence."""

    reformer: Reformer
    units: Any
    temperature: Any
    norm: int = static(default=1)
    reforms: bool = True

    def __call__(self, model: Classifier, x: jax.Array) -> jax.Array:
        return jnp.max(self.parts(model, x) / self.units)

    def parts(self, model: Classifier, x: jax.Array) -> jax.Array:
        """The K scores, in units of their own."""
        reformed = self.reformer.transform(None, x)
        found = [jnp.mean(jnp.abs(x - reformed) ** self.norm)]
        if self.temperature is not None:
            plain = Classifier(model.net.inner, model.params[0], model.key) if self.reforms else model
            found.append(divergence(plain(x) / self.temperature, plain(reformed) / self.temperature))
        return jnp.stack(found)


@record
class Denoising(TrainingDefence):
    """The mean squared error of the clean image from one with Gaussian noise of standard deviation `noise`."""

    noise: float

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return jnp.clip(x + self.noise * jax.random.normal(key, x.shape), 0, 1)

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        return jnp.mean((logits - flatten(clean)) ** 2)


@register("model_defence", "magnet", paper="meng2017", parts={"recipe": "recipe"})
@record
class MagNet(Detector):
    """norm: 1 or 2, of the reconstruction error. temperature: of the divergence's probabilities; None for no such
    detector. reform: whether the model sees the reconstruction. noise: in the autoencoder's training, of pixels from 0
    to 1; width: its hidden channels; recipe: how it is trained. fpr, images: see Detector.
    """

    norm: int = 1
    temperature: float | None = 10.0
    reform: bool = True
    noise: float = 0.1
    width: int = 8
    recipe: Any = "adamw(epochs=20, learning_rate=0.01)"
    fpr: float = 0.05
    images: int = 5000

    def __post_init__(self):
        super().__post_init__()
        require_positive("magnet", temperature=self.temperature, width=self.width)
        if self.norm not in (1, 2):
            raise UserError(f"magnet: norm = {self.norm} must be 1 or 2")
        if not self.noise >= 0:
            raise UserError(f"magnet: noise = {self.noise} must be at least 0")

    def fit(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Reconstruction:
        fresh = build_autoencoder(self.width, data.x.shape[1:], stream(key, "autoencoder"))
        trained = fit(stream(key, "train"), fresh, data, self.recipe, defence=Denoising(self.noise))
        heat = None if self.temperature is None else np.float32(self.temperature)
        score = Reconstruction(Reformer(trained), np.float32(1), heat, self.norm, self.reform)
        found = each(_scores, self.served(score, classifier), data.x, score)
        units = np.maximum(np.quantile(found, 1 - self.fpr, axis=0), np.finfo(np.float32).tiny)
        return score.replace(units=units.astype(np.float32))

    def served(self, score: Reconstruction, classifier: Classifier) -> Classifier:
        if not self.reform:
            return classifier
        return Classifier(Fronted(classifier.net, classifier.stochastic), (classifier.params, score.reformer))


def divergence(a: jax.Array, b: jax.Array) -> jax.Array:
    """Jensen-Shannon divergence of softmax(a) and softmax(b) [C], in nats: from 0 to log 2. Finite whatever the logits:
    logarithms are of no probability but by log-softmax.
    """
    p, q = jax.nn.log_softmax(a), jax.nn.log_softmax(b)
    middle = jnp.logaddexp(p, q) - jnp.log(2.0)
    return jnp.sum(jnp.exp(p) * (p - middle) + jnp.exp(q) * (q - middle)) / 2


def _scores(model: Classifier, x: jax.Array, score: Reconstruction) -> jax.Array:
    return score.parts(model, x)
