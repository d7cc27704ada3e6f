"""ibp(eps): the cross-entropy of the worst-case logits that intervals leave possible.

Reference: Gowal et al., 2018, arXiv:1810.12715; with the initialisation, the short schedule and the regularisers of Shi
et al., NeurIPS 2021, arXiv:2103.17268 (see certified.py, also for what departs from them). Certify with `ibp`.
"""

from robustbench_jax.defences.training.certified import CertifiedTraining, around, require_least, worst
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("training", "ibp", paper="shi2021")
@record
class IBP(CertifiedTraining):
    """kappa: the weight that the clean cross-entropy has beside it once eps is reached, from 1 at first; 0 in Shi et
    al., 0.5 in Gowal et al.
    """

    kappa: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        require_least("ibp", "kappa", self.kappa, 1)

    def objective(self, key, model, clean, x, logits, y, progress):
        share = self.grown(progress)
        region = around(clean, share * self.eps)
        found = worst(model, region, y, logits.shape[-1])
        kappa = 1 - share * (1 - self.kappa)
        loss = kappa * self.loss(logits, y) + (1 - kappa) * self.loss(found.logits, y)
        return loss + self.besides(model, found, region, share)
