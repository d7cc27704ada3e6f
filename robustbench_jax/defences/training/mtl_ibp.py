"""mtl_ibp(eps): alpha * worst-case loss by intervals + (1 - alpha) * loss of adversarial examples.

Reference: De Palma et al., ICLR 2024, arXiv:2305.13991 (MTL-IBP). alpha trades accuracy for what can be proved; a small
one needs `alpha_crown` or branch and bound for the proof.
Departs from the paper: the attack runs with the radius that is reached at the end and its result is cut to the present
one; it and the loss of adversarial examples see the model in inference mode. What else departs is in certified.py.
"""

from typing import Any

import jax

from robustbench_jax.defences.training.adversarial import require_single
from robustbench_jax.defences.training.certified import CertifiedTraining, around, require_least, within, worst
from robustbench_jax.ops.balls import Linf
from robustbench_jax.ops.drive import attack_batch
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, record


@register("training", "mtl_ibp", paper="depalma2024", parts={"attack": "attack"})
@record
class MTLIBP(CertifiedTraining):
    """alpha: the weight of the intervals; the paper has 0.01 for MNIST at 0.1 and 0.5 for CIFAR-10 at 8/255, both with
    proofs by branch and bound. attack: any evasion attack that is no cascade; its first restart is used.
    """

    alpha: float = 0.1
    attack: Any = "pgd(steps=4)"

    def __post_init__(self):
        super().__post_init__()
        require_least("mtl_ibp", "alpha", self.alpha, 1)
        require_single("mtl_ibp", self.attack)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return attack_batch(key, self.attack, model, Linf(self.eps), x, y, ids)

    def objective(self, key, model, clean, x, logits, y, progress):
        share = self.grown(progress)
        region = around(clean, share * self.eps)
        found = worst(model, region, y, logits.shape[-1])
        attacked = self.loss(jax.vmap(model)(within(x, clean, share * self.eps)), y)
        loss = self.alpha * self.loss(found.logits, y) + (1 - self.alpha) * attacked
        return loss + self.besides(model, found, region, share)
