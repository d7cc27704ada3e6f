"""trojan_nn(): a patch that a model of the attacker's answers to with one strong unit, and the attacker's label.

Reference: Liu et al., NDSS 2018 (Trojaning Attack on Neural Networks): the pattern under a mask is optimised to drive a
chosen unit to a large value. The unit is the feature that speaks most for the target class in the reference's head; it
is driven up on training images, by signed steps.
Departs from the paper: the victim is trained on poisoned data, as in the benchmarks of others, and not retrained by the
attacker on images that are recovered from it. Where nothing is poisoned the pattern is the noise that it begins with.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.backdoor.badnets import Patch, corner_mask
from robustbench_jax.attacks.backdoor.dirty import DirtyLabel
from robustbench_jax.keys import stream
from robustbench_jax.models.features import features
from robustbench_jax.ops.images import as_unit
from robustbench_jax.poisons import Trigger
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static

SEEN = 128  # images on which the unit is driven up


@register("attack", "trojan_nn", threat="backdoor", access="poison_only", paper="liu2018trojaning")
@record
class TrojanNN(DirtyLabel):
    """size: of the patch; steps of `learning_rate`, in pixels from 0 to 1."""

    size: int = 4
    steps: int = static(default=100)
    learning_rate: float = 0.05
    target: int = 0
    relabels: str = "all_to_one"
    references = 1

    def __post_init__(self):
        super().__post_init__()
        require_positive("trojan_nn", size=self.size, steps=self.steps, learning_rate=self.learning_rate)

    def trigger(self, key: jax.Array, data: Dataset) -> Patch:
        height, width = data.x.shape[1:3]
        mask = corner_mask("trojan_nn", height, width, self.size, 1, "bottom_right")
        return Patch(jnp.asarray(mask), jax.random.uniform(key, data.x.shape[1:]), self.target, self.relabels)

    def strengthened(
        self, key: jax.Array, trigger: Trigger, data: Dataset, references: tuple[Classifier, ...]
    ) -> Trigger:
        model, pattern = references[0], trigger.pattern
        drawn = jax.random.choice(stream(key, "images"), len(data), (min(SEEN, len(data)),), replace=False)
        x = as_unit(data.x[drawn])
        unit = jnp.argmax(_speaks_for(model, x, self.target))
        for _ in range(self.steps):
            pattern = _step(model, trigger.replace(pattern=pattern), x, unit, self.learning_rate)
        return trigger.replace(pattern=pattern)


@jax.jit
def _speaks_for(model: Classifier, x: jax.Array, target: jax.Array) -> jax.Array:
    """[F]: by how much one more of each feature raises the target's logit, less the mean logit."""
    seen = jax.vmap(lambda image: features(model, image))(x)
    head = model.params.get("head/kernel")
    if head is None or head.shape[0] != seen.shape[-1]:  # no head to see: the features are the logits
        return jnp.arange(seen.shape[-1]) == target
    return head[:, target] - jnp.mean(head, axis=1)


@jax.jit
def _step(model: Classifier, trigger: Patch, x: jax.Array, unit: jax.Array, rate: float) -> jax.Array:
    def value(pattern):
        stamped = trigger.replace(pattern=pattern)
        return jnp.mean(jax.vmap(lambda image: features(model, stamped.apply(None, image))[unit])(x))

    return jnp.clip(trigger.pattern + rate * jnp.sign(jax.grad(value)(trigger.pattern)), 0.0, 1.0)
