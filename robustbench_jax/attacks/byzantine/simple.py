"""Lies that need no knowledge of the rule: truthful (none), sign_flip, gaussian_vectors, client_label_flip,
model_replacement, mimic.

References: sign flip and Gaussian vectors as in Blanchard et al., NeurIPS 2017, and Li et al., AAAI 2019,
arXiv:1811.03761 (RSA). Label flip: class c becomes C - 1 - c, as in Allen-Zhu et al., ICLR 2021, arXiv:2012.14368.
Model replacement: Bagdasaryan et al., AISTATS 2020, arXiv:1807.00459: vectors of wrong labels, so long that the mean of
all is moved by them as if there were no others. Mimic: Karimireddy, He & Jaggi, ICLR 2022, arXiv:2006.09365: all send
what one honest client sends, which over-weights its data.
Departs from the paper: mimic copies the first honest client, not the one along the largest variance.
Shapes: h honest vectors of d numbers, f sent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from robustbench_jax.federation import ByzantineAttack
from robustbench_jax.registry import register
from robustbench_jax.types import record, require_positive


@register("attack", "truthful", threat="byzantine", access="none")
@record
class Truthful(ByzantineAttack):
    """The mean of what the others send: nobody lies."""

    def send(self, key: jax.Array, honest: jax.Array, f: int, aggregate: Callable) -> jax.Array:
        return jnp.tile(jnp.mean(honest, axis=0), (f, 1))


@register("attack", "sign_flip", threat="byzantine", access="gradients", paper="li2019rsa")
@record
class SignFlip(ByzantineAttack):
    """scale: of minus the honest mean."""

    scale: float = 1.0

    def __post_init__(self):
        require_positive("sign_flip", scale=self.scale)

    def send(self, key: jax.Array, honest: jax.Array, f: int, aggregate: Callable) -> jax.Array:
        return jnp.tile(-self.scale * jnp.mean(honest, axis=0), (f, 1))


@register("attack", "gaussian_vectors", threat="byzantine", access="none", paper="blanchard2017")
@record
class GaussianVectors(ByzantineAttack):
    """sigma: standard deviation of each coordinate."""

    sigma: float = 10.0

    def __post_init__(self):
        require_positive("gaussian_vectors", sigma=self.sigma)

    def send(self, key: jax.Array, honest: jax.Array, f: int, aggregate: Callable) -> jax.Array:
        return self.sigma * jax.random.normal(key, (f, honest.shape[1]))


@register("attack", "client_label_flip", threat="byzantine", access="none", paper="allenzhu2021")
@record
class ClientLabelFlip(ByzantineAttack):
    """Honest training on labels C - 1 - c."""

    flips = True


@register("attack", "model_replacement", threat="byzantine", access="none", paper="bagdasaryan2020")
@record
class ModelReplacement(ByzantineAttack):
    """As client_label_flip, n / f times as long."""

    flips = True

    def boost(self, n: int, f: int) -> float:
        return n / f


@register("attack", "mimic", threat="byzantine", access="gradients", paper="karimireddy2022")
@record
class Mimic(ByzantineAttack):
    """Every one of the f sends what the first honest client does."""

    def send(self, key: jax.Array, honest: jax.Array, f: int, aggregate: Callable) -> jax.Array:
        return jnp.tile(honest[0], (f, 1))
