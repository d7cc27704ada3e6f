"""sabr(eps): intervals of a small box around an adversarial example, inside of the large box.

Reference: Mueller et al., ICLR 2023, arXiv:2210.04871. With tau = share * eps, the box of radius tau stands around the
adversarial example, moved so that it does not leave the box of radius eps. Certify with `alpha_crown` or branch and
bound: intervals alone prove little of such a network.
Departs from the paper: the attack runs with the radius that is reached at the end and its result is cut to the present
one; it sees the model in inference mode. What else departs is in certified.py.
"""

from typing import Any

import jax

from robustbench_jax.defences.training.adversarial import require_single
from robustbench_jax.defences.training.certified import CertifiedTraining, around, require_least, within, worst
from robustbench_jax.ops.balls import Linf
from robustbench_jax.ops.drive import attack_batch
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, record


@register("training", "sabr", paper="mueller2023", parts={"attack": "attack"})
@record
class SABR(CertifiedTraining):
    """share: the small box's radius in parts of eps; the paper has 0.4 for MNIST at 0.1 and 0.1 for CIFAR-10 at 2/255.

    attack: any evasion attack that is no cascade; its first restart is used.
    """

    share: float = 0.4
    attack: Any = "pgd(steps=8)"

    def __post_init__(self):
        super().__post_init__()
        require_least("sabr", "share", self.share, 1)
        require_single("sabr", self.attack)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return attack_batch(key, self.attack, model, Linf(self.eps * (1 - self.share)), x, y, ids)

    def objective(self, key, model, clean, x, logits, y, progress):
        grown = self.grown(progress)
        eps = grown * self.eps
        region = around(within(x, clean, eps * (1 - self.share)), eps * self.share)
        found = worst(model, region, y, logits.shape[-1])
        return self.loss(found.logits, y) + self.besides(model, found, region, grown)
