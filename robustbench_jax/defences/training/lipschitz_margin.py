"""lipschitz_margin(eps): the cross-entropy of logits that an L2 step of eps could have moved; for 1-Lipschitz networks.

References: Singla et al., ICLR 2022, arXiv:2108.04062 and Araujo et al., ICLR 2023, arXiv:2303.03169 (margin offset and
temperature); Leino et al., ICML 2021, arXiv:2102.08452 (a rate for each pair of classes). Each wrong class j gets
eps ||w_y - w_j|| more than its logit, the most that a step of eps can give it against the right one.
Departs from the papers: the offset is that of each pair of classes, and follows the weights, instead of sqrt(2) eps.
Shapes: B batch, C classes.
"""

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, UserError, record, require_positive


@register("training", "lipschitz_margin", paper="araujo2023")
@record
class LipschitzMargin(TrainingDefence):
    """eps: the L2 radius that is trained for, on the scale of [0, 1]; temperature: logits are divided by it. Smaller
    ones, and larger eps, give more accuracy and more robustness, in this order.
    """

    eps: float = 0.5
    temperature: float = 0.25

    def __post_init__(self):
        require_positive("lipschitz_margin", eps=self.eps, temperature=self.temperature)

    def objective(
        self,
        key: jax.Array,
        model: Classifier,
        clean: jax.Array,
        x: jax.Array,
        logits: jax.Array,
        y: jax.Array,
        progress: jax.Array,
    ) -> jax.Array:
        """Raises UserError for a network that does not say how fast its logits change."""
        module = model.net.module(model.params)
        if not hasattr(module, "pairs"):
            raise UserError(
                f"lipschitz_margin: {type(module).__name__} is not Lipschitz by construction; "
                "take lipschitz_cnn or lipschitz_mlp"
            )
        moved = (logits + self.eps * module.pairs()[y]) / self.temperature
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(moved, y))
