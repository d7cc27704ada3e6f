"""overwrite() and forge(): the thief claims the model for himself.

References: overwriting, Uchida et al., ICMR 2017, arXiv:1701.04082, section 4.4; false claims, Fan et al., NeurIPS
2019, arXiv:1909.07830 (ambiguity attacks).
"""

from typing import Any

import jax

from robustbench_jax.keys import stream
from robustbench_jax.ownership import Removal, Thief
from robustbench_jax.registry import register
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, record

RECIPE = "adamw(epochs=20, batch_size=64, learning_rate=1e-3)"


@register("attack", "overwrite", threat="ownership", access="weights", paper="uchida2017", parts={"recipe": "recipe"})
@record
class Overwrite(Removal):
    """A mark of the same kind with a secret of the thief's own is embedded by `recipe`."""

    recipe: Any = RECIPE

    def remove(self, key: jax.Array, thief: Thief) -> Classifier:
        own = thief.mark.replace(secret=int(jax.random.bits(stream(key, "secret")) >> 1))
        return fit(stream(key, "fit"), thief.stolen, thief.images, self.recipe, defence=own)


@register("attack", "forge", threat="ownership", access="weights", paper="fan2019")
@record
class Forge(Removal):
    """Leaves the model as it is and makes up a claim that it meets."""

    forges = True

    def remove(self, key: jax.Array, thief: Thief) -> Classifier:
        return thief.stolen
