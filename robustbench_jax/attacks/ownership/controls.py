"""no_removal and independent: the stolen model as it is, and a model that was never stolen.

The first has to be verified, the second must not be: how often it is, over seeds, is the rate of false claims.
"""

import jax

from robustbench_jax.ownership import Removal, Thief
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, record


@register("attack", "no_removal", threat="ownership", access="weights")
@record
class NoRemoval(Removal):
    """Changes nothing."""

    def remove(self, key: jax.Array, thief: Thief) -> Classifier:
        return thief.stolen


@register("attack", "independent", threat="ownership", access="none")
@record
class Independent(Removal):
    """Trained like the models of the null, from another seed and on another draw of images."""

    def remove(self, key: jax.Array, thief: Thief) -> Classifier:
        return thief.innocent()
