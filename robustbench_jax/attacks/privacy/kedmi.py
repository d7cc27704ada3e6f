"""kedmi(public): for each class a distribution of codes, of a generator that was trained with the model's answers.

Reference: KED-MI (knowledge-enriched distributional), Chen et al., ICCV 2021, arXiv:2010.04092. The discriminator of a
GAN also learns to say of public images what the model says of them (cross-entropy with its shares of the classes), so
that its features, which the generator matches, are of what the model tells classes by. Then a mean and a variance of
codes are sought for each class, whose images the model is sure of and the discriminator takes for real; what is
reconstructed are drawings of it.
Departs from the paper: networks of dense layers and narrow images; the learning rates are its own.
Shapes: B reconstructions, U classes that are sought, N codes drawn, Z entries of a code, D = [H, W, C].
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.attacks.privacy.generating import FromPublic
from robustbench_jax.keys import stream
from robustbench_jax.models.gan import build_gan, entropy, is_real, seen
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, UserError, record, require_positive, static

ADAM = optax.scale_by_adam()
OF_GAN = optax.scale_by_adam(b1=0.5)


@register(
    "attack", "kedmi", threat="model_inversion", access="gradients", paper="chen2021ked", parts={"public": "dataset"}
)
@record
class KEDMI(FromPublic):
    """codes: Z; width: of hidden layers; epochs: of the GAN's training, in batches of `batch_size`; enriched: whether
    its discriminator learns what the model says (without, the control). sharpness: the weight of the entropy of what
    it takes generated images for. steps: of Adam with `learning_rate` on means and variances, each with `draws` codes
    of every class; 0 for drawings of the generator. identity: the weight of the model's cross-entropy against that of
    looking real.
    """

    codes: int = static(default=50)
    width: int = static(default=256)
    epochs: int = static(default=50)
    batch_size: int = static(default=64)
    enriched: bool = static(default=True)
    gan_rate: float = 0.0003
    sharpness: float = 0.0001
    steps: int = static(default=300)
    draws: int = static(default=16)
    learning_rate: float = 0.02
    identity: float = 100.0

    def __post_init__(self):
        given = {name: getattr(self, name) for name in ("codes", "width", "epochs", "batch_size", "gan_rate", "draws")}
        require_positive("kedmi", **given, learning_rate=self.learning_rate)
        for name in ("sharpness", "steps", "identity"):
            value = getattr(self, name)
            if isinstance(value, int | float) and value < 0:
                raise UserError(f"kedmi: {name} = {value} must be at least 0")

    def invert(self, key: jax.Array, model: Classifier, labels: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        generator, discriminator = self.gan(stream(key, "gan"), model, shape)
        classes, rows = np.unique(np.asarray(labels), return_inverse=True)
        models = generator, discriminator, model
        mean, logarithm = self.search(stream(key, "search"), models, jnp.asarray(classes))
        noise = jax.random.normal(stream(key, "draw"), (len(labels), self.codes))
        return generator(mean[rows] + jnp.exp(logarithm[rows] / 2) * noise)

    def gan(self, key: jax.Array, model: Classifier, shape: tuple[int, ...]) -> tuple[Classifier, Classifier]:
        """(generator, discriminator), trained on the public images. Raises UserError where they have another shape."""
        x = self.public_images(shape).x
        said = jax.eval_shape(model, jax.ShapeDtypeStruct(tuple(shape), np.float32))
        pair = build_gan(self.codes, said.shape[-1], self.width, shape, stream(key, "weights"))
        adam = tuple(OF_GAN.init(each.net.trainable(each.params)) for each in pair)
        wide, order = min(self.batch_size, len(x)), stream(key, "order")
        for epoch in range(self.epochs):
            rows = np.asarray(jax.random.permutation(jax.random.fold_in(order, epoch), len(x)))
            for at in range(0, len(x) - wide + 1, wide):
                own = jax.random.fold_in(jax.random.fold_in(stream(key, "step"), epoch), at)
                pair, adam = _played(own, pair, adam, model, as_unit(x[rows[at : at + wide]]), self)
        return pair

    def search(self, key, models: tuple, classes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Means and logarithms of variances [U, Z] of the codes of classes [U]. The key is consumed."""
        found = (jnp.zeros((len(classes), self.codes)),) * 2
        adam = ADAM.init(found)
        for step in range(self.steps):
            found, adam = _sought(jax.random.fold_in(key, step), models, classes, found, adam, self)
        return found


def _changed(model: Classifier, slope: dict, adam, rate) -> tuple[Classifier, tuple]:
    change, adam = OF_GAN.update(slope, adam)
    return model.replace(params=model.params | {k: model.params[k] - rate * v for k, v in change.items()}), adam


@jax.jit
def _played(key, pair, adam, model, x, attack: KEDMI):
    """A step of the discriminator, then one of the generator."""
    generator, discriminator = pair
    ours, theirs = (jax.random.normal(each, (len(x), attack.codes)) for each in jax.random.split(key))
    shares = jax.nn.softmax(jax.vmap(model)(x))

    def told_apart(weights):
        judge = discriminator.replace(params=discriminator.params | weights)
        real, made = judge(x), judge(generator(ours))
        loss = jnp.mean(jax.nn.softplus(-is_real(real)) + jax.nn.softplus(is_real(made)))
        return loss + attack.enriched * jnp.mean(optax.softmax_cross_entropy(real, shares))

    slope = jax.grad(told_apart)(discriminator.net.trainable(discriminator.params))
    discriminator, second = _changed(discriminator, slope, adam[1], attack.gan_rate)

    def matched(weights):
        made, logits = seen(discriminator, generator.replace(params=generator.params | weights)(theirs))
        apart = jnp.mean(jnp.abs(jnp.mean(made, 0) - jnp.mean(seen(discriminator, x)[0], 0)))
        return apart + attack.sharpness * jnp.mean(entropy(logits))

    slope = jax.grad(matched)(generator.net.trainable(generator.params))
    generator, first = _changed(generator, slope, adam[0], attack.gan_rate)
    return (generator, discriminator), (first, second)


@jax.jit
def _sought(key, models, classes, found, adam, attack: KEDMI):
    generator, discriminator, model = models

    def loss(found):
        mean, logarithm = found
        noise = jax.random.normal(key, (attack.draws, *mean.shape))
        x = generator(mean + jnp.exp(logarithm / 2) * noise)
        logits = jax.vmap(jax.vmap(model))(x)
        wanted = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.broadcast_to(classes, logits.shape[:-1]))
        unreal = jax.nn.softplus(-is_real(discriminator(x)))
        return jnp.sum(jnp.mean(unreal + attack.identity * wanted, 0))

    change, adam = ADAM.update(jax.grad(loss)(found), adam)
    return jax.tree.map(lambda value, by: value - attack.learning_rate * by, found, change), adam
