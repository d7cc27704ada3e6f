"""brep_mi(public): codes of a generator far inside a class, found by labels alone.

Reference: BREP-MI (boundary repelling), Kahla et al., CVPR 2022, arXiv:2203.06750. Of points on a sphere around the
code, those with another label tell where the boundary is, and the code moves away from it; when all have the label, the
sphere grows. Codes stay in a box, as in the authors' program.
Departs from the paper: the generator is a variational autoencoder, not a GAN; the direction is scaled to length 1 and
the mean of the signs is taken off them; a step out of the class is not taken; there are a fixed number of rounds, and
the sphere grows as well where no point has the label.
Shapes: B images, Z entries of a code, N points on the sphere.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.privacy.generating import Generating
from robustbench_jax.keys import stream
from robustbench_jax.models.variational import decode
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, UserError, record, require_positive, static


@register(
    "attack",
    "brep_mi",
    threat="model_inversion",
    access="labels",
    paper="kahla2022",
    parts={"public": "dataset", "recipe": "recipe"},
)
@record
class BrepMI(Generating):
    """rounds of `points` + 2 questions; 0 for the codes it begins from, a control. radius: of the first sphere; growth:
    its factor; step: the share of the radius that a code moves, 3 at most; bound: of each entry of a code. starts:
    codes of which the first with the right label are begun from (any where none has it).
    """

    rounds: int = static(default=100)
    points: int = static(default=32)
    radius: float = 2.0
    growth: float = 1.3
    step: float = 1 / 3
    bound: float = 1.5
    starts: int = static(default=5000)

    def __post_init__(self):
        super().__post_init__()
        given = {name: getattr(self, name) for name in ("points", "radius", "step", "bound", "starts")}
        require_positive("brep_mi", **given)
        if self.rounds < 0:
            raise UserError(f"brep_mi: rounds = {self.rounds} must be at least 0")
        if isinstance(self.growth, float) and not self.growth > 1:
            raise UserError(f"brep_mi: growth = {self.growth} must be greater than 1")

    def search(self, key, generator: Classifier, model: Classifier, labels: jax.Array, shape: tuple) -> jax.Array:
        models, shape, rounds = (generator, model), tuple(shape), stream(key, "rounds")
        drawn = jax.random.normal(stream(key, "starts"), (self.starts, self.codes))
        z = begin(jnp.clip(drawn, -self.bound, self.bound), models, labels, shape)
        radius = jnp.full(len(labels), self.radius)
        for number in range(self.rounds):
            at = jax.random.split(jax.random.fold_in(rounds, number), len(labels))
            z, radius = _round(at, models, labels, z, radius, self, shape=shape)
        return z


def begin(codes: jax.Array, models: tuple, labels: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Of codes [S, Z], for each of labels [B] the next one that has it, from the first again after the last."""
    said, labels = np.asarray(_said(models, codes, shape=shape)), np.asarray(labels)
    rows = np.arange(len(labels)) % len(codes)
    for label in np.unique(labels):
        found, wanted = np.flatnonzero(said == label), np.flatnonzero(labels == label)
        if len(found):
            rows[wanted] = np.resize(found, len(wanted))
    return codes[rows]


def repelled(
    key: jax.Array, inside: Callable, z: jax.Array, radius: jax.Array, attack: BrepMI
) -> tuple[jax.Array, jax.Array]:
    """One round for one code z [Z]: (code, radius). inside(codes [N, Z]) -> bool [N]: have they the label?"""
    u = jax.random.normal(key, (attack.points, len(z)))
    u = u / jnp.linalg.norm(u, axis=-1, keepdims=True)
    hits = inside(jnp.clip(z + radius * u, -attack.bound, attack.bound))
    signs = jnp.where(hits, 1.0, -1.0)
    away = jnp.mean((signs - signs.mean())[:, None] * u, 0)
    away = away / jnp.maximum(jnp.linalg.norm(away), 1e-12)
    moved = jnp.clip(z + jnp.minimum(attack.step * radius, 3.0) * away, -attack.bound, attack.bound)
    now, then = inside(jnp.stack([z, moved]))
    alike = jnp.all(hits == hits[0])
    return jnp.where(alike | (now & ~then), z, moved), jnp.where(alike, attack.growth * radius, radius)


@partial(jax.jit, static_argnames="shape")
def _said(models, z, *, shape):
    generator, model = models
    return jnp.argmax(jax.vmap(model)(decode(generator, z, shape)), -1)


@partial(jax.jit, static_argnames="shape")
def _round(keys, models, labels, z, radius, attack: BrepMI, *, shape):
    def one(key, label, z, radius):
        return repelled(key, lambda codes: _said(models, codes, shape=shape) == label, z, radius, attack)

    return jax.vmap(one)(keys, labels, z, radius)
