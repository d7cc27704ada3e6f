"""gmi(public): codes of a generator that the model is surest of.

Reference: GMI, Zhang et al., CVPR 2020, arXiv:1911.07135: ascent on the log-probability of the class and on how real
the image is. Departs from the paper: the generator is a variational autoencoder, not a GAN, so that how real an image
is, is told by the density of its code, not by a discriminator; Adam, and one start for each image.
Shapes: B images, Z entries of a code, D = [H, W, C].
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.attacks.privacy.generating import Generating
from robustbench_jax.models.variational import decode
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, UserError, record, require_positive, static

ADAM = optax.scale_by_adam()


@register(
    "attack",
    "gmi",
    threat="model_inversion",
    access="gradients",
    paper="zhang2020gmi",
    parts={"public": "dataset", "recipe": "recipe"},
)
@record
class GMI(Generating):
    """steps of Adam with `learning_rate`; 0 steps for drawings of the generator, the control. prior: the weight of a
    code's negative log density.
    """

    steps: int = static(default=300)
    learning_rate: float = 0.05
    prior: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        require_positive("gmi", learning_rate=self.learning_rate)
        for name, value in (("steps", self.steps), ("prior", self.prior)):
            if isinstance(value, int | float) and value < 0:
                raise UserError(f"gmi: {name} = {value} must be at least 0")

    def search(self, key, generator: Classifier, model: Classifier, labels: jax.Array, shape: tuple) -> jax.Array:
        z = jax.random.normal(key, (len(labels), self.codes))
        adam = ADAM.init(z)
        for _ in range(self.steps):
            z, adam = _step(generator, model, labels, z, adam, self.learning_rate, self.prior, shape=tuple(shape))
        return z


@partial(jax.jit, static_argnames="shape")
def _step(generator, model, labels, z, adam, rate, prior, *, shape):
    def loss(z):
        logits = jax.vmap(model)(decode(generator, z, shape))
        wanted = jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        return wanted + prior * jnp.sum(z**2) / 2

    change, adam = ADAM.update(jax.grad(loss)(z), adam)
    return z - rate * change, adam
