"""imputation(): the attribute from the rest of the record, by whoever has complete ones; no model is asked.

Reference: the baseline of Jayaraman & Evans, CCS 2022, arXiv:2209.01292.
"""

import jax
import numpy as np

from robustbench_jax.attributes import AttributeAttack, Records, impute
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("attack", "imputation", threat="attribute", access="none", paper="jayaraman2022")
@record
class Imputation(AttributeAttack):
    """The control: its advantage over the baseline is 0, since it is the baseline."""

    def score(self, key: jax.Array, records: Records) -> np.ndarray:
        return impute(records)
