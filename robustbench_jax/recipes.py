"""Recipes: how a model is optimised, apart from what it is defended with.

`sgd(epochs=20, learning_rate=0.1)` and `adamw(epochs=20)` are call strings; a recipe is static, so two fits with the
same recipe share a compiled program.
"""

from dataclasses import KW_ONLY, dataclass

import optax

from robustbench_jax.registry import nearest, register
from robustbench_jax.types import UserError, require_positive

SCHEDULES = ("one_cycle", "cosine", "piecewise", "constant")
AUGMENTATIONS = ("none", "crop", "flip", "crop_flip")
KEEP = ("last", "best")
LATE = ("holdout", "keep", "swa")


@dataclass(frozen=True)
class Recipe:
    """schedule: of the learning rate; "one_cycle" rises for 30% of the steps, "cosine" falls from the start,
    "piecewise" divides by 10 at 50% and 75%. augmentation: random crops after padding by an eighth of the side, random
    mirror images, both or none. ema: decay of an exponential average of the weights, which is then what is returned.

    holdout: how many training images, drawn by key, are never trained on but judged at the end of each epoch. keep:
    "last", or "best": the weights of the epoch with the highest robust accuracy on these, where the defence watches an
    attack, else the highest clean one (early stopping; Rice et al., ICML 2020, arXiv:2002.11569). swa: the share of the
    steps after which weights are averaged equally, which average is then what is returned; 0 for never (Izmailov et
    al., UAI 2018, arXiv:1803.05407, who average once an epoch; here at every step).
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    augmentation: str = "none"
    ema: float = 0.0
    _: KW_ONLY
    holdout: int = 0
    keep: str = "last"
    swa: float = 0.0

    def __post_init__(self):
        name = self.registered[1]
        require_positive(name, epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)
        for key, allowed in (("schedule", SCHEDULES), ("augmentation", AUGMENTATIONS), ("keep", KEEP)):
            if getattr(self, key) not in allowed:
                raise UserError(f"{name}: {key} = {getattr(self, key)!r}{nearest(getattr(self, key), allowed)}")
        if not 0 <= self.ema < 1:
            raise UserError(f"{name}: ema = {self.ema} must be at least 0 and below 1")
        if not 0 <= self.swa < 1:
            raise UserError(f"{name}: swa = {self.swa} must be at least 0 and below 1")
        if self.ema and self.swa:
            raise UserError(f"{name}: ema = {self.ema} and swa = {self.swa}: one average or the other")
        if self.holdout < 0:
            raise UserError(f"{name}: holdout = {self.holdout} must be at least 0")
        if self.keep == "best" and not self.holdout:
            raise UserError(f"{name}: keep = 'best' needs images to judge by; give e.g. holdout=1000")

    @property
    def averages(self) -> bool:
        return bool(self.ema or self.swa)

    def rate(self, steps: int) -> optax.Schedule:
        """The learning rate at each of `steps` steps."""
        if self.schedule == "one_cycle":
            return optax.cosine_onecycle_schedule(max(steps, 4), self.learning_rate)
        if self.schedule == "cosine":
            return optax.cosine_decay_schedule(self.learning_rate, max(steps, 1))
        if self.schedule == "piecewise":
            return optax.piecewise_constant_schedule(self.learning_rate, {steps // 2: 0.1, steps * 3 // 4: 0.1})
        return optax.constant_schedule(self.learning_rate)


@register("recipe", "sgd", late=LATE)
@dataclass(frozen=True)
class SGD(Recipe):
    """Nesterov momentum 0.9; weight decay is added to the gradient, as in PyTorch."""

    momentum: float = 0.9

    def optimiser(self, steps: int) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay), optax.sgd(self.rate(steps), self.momentum, nesterov=True)
        )


@register("recipe", "adamw", late=LATE)
@dataclass(frozen=True)
class AdamW(Recipe):
    """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019, arXiv:1711.05101)."""

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4

    def optimiser(self, steps: int) -> optax.GradientTransformation:
        return optax.adamw(self.rate(steps), weight_decay=self.weight_decay)
