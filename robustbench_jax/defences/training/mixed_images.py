"""mixup(alpha), cutmix(alpha): images are blended, or pasted into one another, and so are their labels.

References: mixup: Zhang et al., ICLR 2018, arXiv:1710.09412. CutMix: Yun et al., ICCV 2019, arXiv:1905.04899. Against
poisoning: Borgnia et al., ICASSP 2021, arXiv:2011.09527. The share of an image is drawn from Beta(alpha, alpha), its
partner is the next image of the batch, whose order is random; CutMix's labels count the pixels that are there.
Departs from the papers: the share, and the rectangle, are drawn for each image, not for each batch.
Shapes: B batch, D = [H, W, C], K classes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.keys import per_example, stream
from robustbench_jax.registry import register
from robustbench_jax.training import Train, TrainingDefence
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static


@record
class Mixing(TrainingDefence):
    """alpha: of the shares; paste: a rectangle, rather than a blend; classes: K. Labels become shares [B, K]."""

    alpha: float
    paste: bool = static()
    classes: int = static()

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy(logits, y))

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any
    ) -> tuple[Any, Any, Any]:
        _, x, y = batch
        shares = jax.random.beta(stream(key, "share"), self.alpha, self.alpha, (len(x),))
        if self.paste:
            kept = jax.vmap(lambda key, share: 1.0 - rectangle(key, x.shape[1:3], share))(
                per_example(stream(key, "place"), jnp.arange(len(x))), shares
            )
        else:
            kept = jnp.broadcast_to(shares[:, None, None], x.shape[:3])
        mixed = jnp.roll(x, -1, axis=0) + kept[..., None] * (x - jnp.roll(x, -1, axis=0))
        labels, own = jax.nn.one_hot(y, self.classes), jnp.mean(kept, axis=(1, 2))[:, None]
        labels = own * labels + (1 - own) * jnp.roll(labels, -1, axis=0)
        return super().combine(key, objective, weights, (mixed, mixed, labels), memory)


def rectangle(key: jax.Array, sides: tuple[int, int], share: jax.Array) -> jax.Array:
    """[H, W]: 1 in a rectangle of the image's proportions and 1 - share of its area, its centre drawn evenly, cut off
    at the edges.
    """
    inside = []
    for side, own in zip(sides, jax.random.split(key), strict=True):
        centre, half = jax.random.uniform(own) * side, jnp.sqrt(1 - share) * side / 2
        at = jnp.arange(side) + 0.5
        inside.append((at >= centre - half) & (at < centre + half))
    return (inside[0][:, None] & inside[1][None]).astype(jnp.float32)


class Mixed(TrainingDefence):
    """alpha: of the Beta distribution that shares are drawn from."""

    alpha: float
    paste = False

    def __post_init__(self):
        require_positive(self.registered[1], alpha=self.alpha)

    def prepare(self, key: jax.Array, model: Classifier, data: Dataset, train: Train) -> Mixing:
        return Mixing(self.alpha, self.paste, len(data.classes))


@register("training", "mixup", paper="zhang2018mixup")
@record
class Mixup(Mixed):
    """Each image is a blend of two."""

    alpha: float = 1.0


@register("training", "cutmix", paper="yun2019")
@record
class CutMix(Mixed):
    """Each image has a rectangle of another one in it."""

    alpha: float = 1.0
    paste = True
