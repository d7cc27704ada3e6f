"""input_aware(): each image gets a trigger of its own, made by a network that is trained with the victim.

Reference: Nguyen & Tran, NeurIPS 2020, arXiv:2010.08138. Two networks see the image: one says where it is changed (the
mask), the other to what (the pattern). The mask's is trained first: masks of two images are to differ as much as the
images do, and no more than a `density` of the pixels to be changed. The pattern's is trained with the victim, for whom
a share of the images carry their own trigger and the attacker's label, and `cross` times as many that of another image
and their own label: a trigger is to work on its own image alone. How far it does is the cross-trigger accuracy.
Departs from the paper: fewer steps for the mask, and the networks of models/encoder_decoder.py; of a victim that is the
best of its epochs the trigger is still that of the last.
Shapes: B batch, D = [H, W, C], K images that may get their own trigger.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.attacks.backdoor.controlling import Controlled
from robustbench_jax.attacks.backdoor.dirty import DirtyLabel
from robustbench_jax.keys import generator, stream
from robustbench_jax.models.encoder_decoder import build_encoder_decoder
from robustbench_jax.ops.images import as_unit
from robustbench_jax.poisons import PoisonedDataset, Trigger
from robustbench_jax.registry import register
from robustbench_jax.training import Train
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

RATE, MOMENTS = 0.01, (0.5, 0.9)  # of Adam, for both networks
SHARPNESS, LEVEL = 20.0, 0.5  # of the mask: what lies above the level is changed
NORM = 100.0  # how much the mask's density weighs against its variety
BATCH = 128  # images of a step of the mask
TINY = 1e-7


@record
class Generated(Trigger):
    """mask and pattern: networks [D] -> [H, W, 1] and [H, W, C]."""

    mask: Classifier
    pattern: Classifier
    target: int
    relabels: str
    dynamic = True

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return self.exchanged(x, x)

    def exchanged(self, x: jax.Array, source: jax.Array) -> jax.Array:
        return x + where(self.mask, source) * (what(self.pattern, source) - x)


def where(mask: Classifier, x: jax.Array) -> jax.Array:
    """The share [..., H, W, 1], near 0 or near 1, in which each pixel of x [..., D] is changed."""
    return (jnp.tanh(SHARPNESS * (jnp.tanh(mask(x)) - LEVEL)) + 1) / 2


def what(pattern: Classifier, x: jax.Array) -> jax.Array:
    """The pixels [..., D] in [0, 1] that x [..., D] is changed to."""
    return jax.nn.sigmoid(pattern(x))


@register("attack", "input_aware", threat="backdoor", access="train_control", paper="nguyen2020")
@record
class InputAware(DirtyLabel):
    """cross: how many images carry another one's trigger for each that carries its own; density: share of pixels that a
    trigger may change; diversity: how much the triggers' variety weighs; mask_steps: of the mask's training; width: of
    both networks.
    """

    cross: float = 1.0
    density: float = 0.032
    diversity: float = 1.0
    mask_steps: int = static(default=100)
    width: int = static(default=16)
    target: int = 0
    relabels: str = "all_to_one"
    learns = True

    def __post_init__(self):
        super().__post_init__()
        require_positive("input_aware", density=self.density, mask_steps=self.mask_steps, width=self.width)
        for name in ("cross", "diversity"):
            if getattr(self, name) < 0:
                raise UserError(f"input_aware: {name} = {getattr(self, name)} must be at least 0")
        if self.density >= 1:
            raise UserError(f"input_aware: density = {self.density} must be below 1")

    def trigger(self, key: jax.Array, data: Dataset) -> Generated:
        """Of networks that nobody has trained."""
        shape = data.x.shape[1:]
        mask = build_encoder_decoder(self.width, 1, shape, stream(key, "mask"))
        pattern = build_encoder_decoder(self.width, shape[-1], shape, stream(key, "pattern"))
        return Generated(mask, pattern, self.target, self.relabels)

    def poison(self, key, data, count, references=()) -> PoisonedDataset:
        """The images stay clean on the disk: poisons are made in training, the rows drawn here say only how many."""
        made = super().poison(key, data, 0, references)
        marks = np.arange(len(data)) < min(count, len(data))
        return PoisonedDataset(data, marks, made.trigger, made.flags)

    def controlled(self, defence: Any, poisoned: PoisonedDataset) -> "Generating":
        share = float(np.mean(poisoned.poisoned))
        if share * (1 + self.cross) > 1:
            raise UserError(f"input_aware: {share:.2f} of the images poisoned and {self.cross:g} times as many crossed")
        classes = len(poisoned.dataset.classes)
        return Generating(defence, poisoned.trigger, share, self.cross * share, classes, self)

    def learned(self, trigger: Generated, arrays: dict[str, jax.Array]) -> Generated:
        for part in ("mask", "pattern"):
            own = {name: arrays[f"{part}/{name}"] for name in getattr(trigger, part).params}
            trigger = trigger.replace(**{part: getattr(trigger, part).replace(params=own)})
        return trigger


@record
class Generating(Controlled):
    """A training defence in the attacker's hands. share: of images with their own trigger; other: with another's."""

    defence: Any
    trigger: Generated
    share: float = static()
    other: float = static()
    classes: int = static()
    attack: InputAware

    def prepare(self, key: jax.Array, model: Classifier, data: Dataset, train: Train) -> "Generating":
        """With a trained mask."""
        ready = super().prepare(stream(key, "defence"), model, data, train)
        mask = trained_mask(stream(key, "mask"), self.trigger.mask, data.x, self.attack)
        return ready.replace(trigger=self.trigger.replace(mask=mask))

    def remember(self, x: jax.Array) -> Any:
        """(the defence's own, the mask's weights, the pattern's weights, Adam's state)."""
        pattern = self.trigger.pattern.params
        return self.defence.remember(x), self.trigger.mask.params, pattern, _adam().init(_weights(self.trigger.pattern))

    def recall(self, memory: Any) -> "Generating":
        return self.replace(defence=self.defence.recall(memory[0]))

    def learned(self, memory: Any) -> dict[str, jax.Array]:
        _, mask, pattern, _ = memory
        named = {"mask": mask, "pattern": pattern}
        return {f"{part}/{name}": value for part, params in named.items() for name, value in params.items()}

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any
    ) -> tuple[Any, Any, Any]:
        """The pattern takes a step of its own, down the same loss."""
        clean, _, y = batch
        inner, mask, params, adam = memory
        trigger = self.trigger.replace(mask=self.trigger.mask.replace(params=mask))
        pattern = trigger.pattern.replace(params=params)

        def joint(weights, own):
            changing = trigger.replace(pattern=pattern.replace(params=params | own))
            bad, labels, variety = self._tampered(stream(key, "tamper"), changing, clean, y)
            loss, aux = objective(weights, (bad, bad, labels))
            return loss + self.attack.diversity * variety, aux

        own = _weights(pattern)
        (gradients, of_pattern), aux = jax.grad(joint, (0, 1), has_aux=True)(weights, own)
        changes, adam = _adam().update(of_pattern, adam, own)
        return gradients, aux, (inner, mask, params | optax.apply_updates(own, changes), adam)

    def tampered(self, key: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._tampered(key, self.trigger, x, y)[:2]

    def _tampered(self, key, trigger: Generated, x, y) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(images, labels, how alike the triggers are). A batch is in no order, so its first K images may get their own
        triggers, each with the chance that makes up the share, and those after them the triggers of other ones.
        """
        count = len(x)
        first, second = (min(math.ceil(part * count), count) for part in (self.share, self.other))
        second = min(second, count - first)
        chance = jax.random.uniform(key, (first + second,))
        bad = chance[:first] < self.share * count / max(first, 1)
        odd = chance[first:] < self.other * count / max(second, 1)
        seen, others = x[: first + second], jnp.roll(x, 1, axis=0)[first : first + second]
        sources = jnp.concatenate([x[:first], others])
        made, places = what(trigger.pattern, sources), where(trigger.mask, sources)
        stamped = jnp.where(jnp.concatenate([bad, odd])[:, None, None, None], seen + places * (made - seen), seen)
        wanted = (y + 1) % self.classes if self.trigger.relabels == "all_to_all" else self.trigger.target
        labels = jnp.where(jnp.pad(bad, (0, count - first)), wanted, y)
        pairs = min(first, second)
        alike = likeness(x[:pairs], others[:pairs], made[:pairs], made[first:][:pairs]) if pairs else jnp.zeros(())
        return jnp.concatenate([stamped, x[first + second :]]), labels, alike


def likeness(x: jax.Array, other: jax.Array, made: jax.Array, made_other: jax.Array) -> jax.Array:
    """The mean over pairs of how far images [B, D] are apart by how far what was made of them is: large for alike."""
    return jnp.mean(_apart(x, other) / (_apart(made, made_other) + TINY))


def _apart(a: jax.Array, b: jax.Array) -> jax.Array:
    """Root mean square [B]; its gradient is finite where two are the same."""
    return jnp.sqrt(jnp.mean((a - b) ** 2, axis=(1, 2, 3)) + TINY)


def trained_mask(key: jax.Array, mask: Classifier, x: np.ndarray, attack: InputAware) -> Classifier:
    """The network that says where images are changed, trained on x uint8 [N, D]. The key is consumed."""
    rng, adam, size = generator(key), _adam().init(_weights(mask)), min(BATCH, len(x))
    for _ in range(attack.mask_steps):
        rows = rng.choice(len(x), size, replace=False)
        mask, adam = _mask_step(mask, adam, x[rows], attack.density, attack.diversity)
    return mask


@jax.jit
def _mask_step(mask: Classifier, adam, x, density, diversity):
    x = as_unit(x)

    def loss(own):
        places = where(mask.replace(params=mask.params | own), x)
        alike = likeness(x, jnp.roll(x, 1, axis=0), places, jnp.roll(places, 1, axis=0))
        return NORM * jnp.mean(jax.nn.relu(places - density)) + diversity * alike

    own = _weights(mask)
    changes, adam = _adam().update(jax.grad(loss)(own), adam, own)
    return mask.replace(params=mask.params | optax.apply_updates(own, changes)), adam


_adam = partial(optax.adam, RATE, *MOMENTS)


def _weights(network: Classifier) -> dict[str, jax.Array]:
    return network.net.trainable(network.params)
