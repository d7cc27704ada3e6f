"""distil(temperature) and extract(): a fresh model learns the stolen one's answers, or those of the owner's service.

References: distillation, Hinton et al., 2015, arXiv:1503.02531, which Yang et al., 2019, arXiv:1906.06046, turn on
watermarks; extraction by labels, Orekondy et al., CVPR 2019, arXiv:1812.02766 (Knockoff Nets, images of the owner's
source).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.keys import stream
from robustbench_jax.ownership import Plain, Removal, Thief
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence, fit
from robustbench_jax.types import Classifier, Dataset, record, require_positive

RECIPE = "adamw(epochs=20, batch_size=64, learning_rate=1e-3)"


@record
class Imitation(TrainingDefence):
    """The cross-entropy to the teacher's probabilities at a temperature, times its square."""

    teacher: Classifier
    temperature: float

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        wanted = jax.nn.softmax(jax.vmap(self.teacher)(clean) / self.temperature)
        each = optax.softmax_cross_entropy(logits / self.temperature, wanted)
        return self.temperature**2 * jnp.mean(each)


@register("attack", "distil", threat="ownership", access="weights", paper="yang2019", parts={"recipe": "recipe"})
@record
class Distil(Removal):
    """temperature: of both models; recipe: of the copy."""

    temperature: float = 4.0
    recipe: Any = RECIPE

    def __post_init__(self):
        require_positive("distil", temperature=self.temperature)

    def remove(self, key: jax.Array, thief: Thief) -> Classifier:
        defence = Imitation(thief.stolen, self.temperature)
        return fit(stream(key, "fit"), thief.fresh(stream(key, "fresh")), thief.images, self.recipe, defence=defence)


@register("attack", "extract", threat="ownership", access="labels", paper="orekondy2019", parts={"recipe": "recipe"})
@record
class Extract(Removal):
    """Each of the thief's images is asked about once; recipe: of the copy."""

    recipe: Any = RECIPE

    def remove(self, key: jax.Array, thief: Thief) -> Classifier:
        images = thief.images
        said = thief.service.ask(images.x).argmax(-1).astype(np.int32)
        answered = Dataset(images.x, said, images.classes, images.name)
        return fit(stream(key, "fit"), thief.fresh(stream(key, "fresh")), answered, self.recipe, defence=Plain())
