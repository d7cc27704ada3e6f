"""overlearned(): the attribute from what the last layer sees: representations say more than the label they are for.

Reference: Song & Shmatikov, ICLR 2020, arXiv:1905.11742. A softmax regression of the attribute on the features, and the
label, of complete records, whose features the attacker can make.
Shapes: N records, V values, F features.
"""

import jax
import numpy as np

from robustbench_jax.attributes import AttributeAttack, Records
from robustbench_jax.ops.regression import chosen_regression, log_shares
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("attack", "overlearned", threat="attribute", access="features", paper="song2020")
@record
class Overlearned(AttributeAttack):
    """Features are standardised."""

    def score(self, key: jax.Array, records: Records) -> np.ndarray:
        known, classes = records.complete, len(records.data.classes)
        middle, scale = records.of_complete.mean(0), np.maximum(records.of_complete.std(0), 1e-9)

        def seen(features, y):
            return np.concatenate([(features - middle) / scale, np.eye(classes)[y]], axis=1)

        weights = chosen_regression(seen(records.of_complete, known.y), known.attribute.values, len(records.prior))
        return log_shares(seen(records.representation, records.data.y), weights)
