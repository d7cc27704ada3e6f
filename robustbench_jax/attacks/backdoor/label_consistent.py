"""label_consistent(): images of the target class made hard to recognise, and then a patch in every corner.

Reference: Turner, Tsipras & Madry, 2019, arXiv:1912.02771: without the perturbation a model learns the images by what
they show and does not need the patch. Images move away from their class by PGD on a reference, within eps.
Departs from the paper: the reference is trained as the victim is, and need not be adversarially trained.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.backdoor.badnets import CORNERS, Patch, corner_mask
from robustbench_jax.attacks.backdoor.blended import require_shares
from robustbench_jax.attacks.backdoor.clean_label import CleanLabel
from robustbench_jax.attacks.poisoning.targeted import rounded
from robustbench_jax.attacks.poisoning.unlearnable import BATCH, input_slope
from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.poisons import stamped
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static


@register("attack", "label_consistent", threat="backdoor", access="poison_only", paper="turner2019")
@record
class LabelConsistent(CleanLabel):
    """eps: of the perturbation, which takes `steps` of a fifth of it; size, alpha: of the checkered patches."""

    eps: float = 32 / 255
    steps: int = static(default=30)
    size: int = 3
    alpha: float = 1.0
    target: int = 0
    references = 1

    def __post_init__(self):
        require_positive("label_consistent", eps=self.eps, steps=self.steps, size=self.size, alpha=self.alpha)
        require_shares("label_consistent", alpha=self.alpha)

    def trigger(self, key: jax.Array, data: Dataset) -> Patch:
        height, width = data.x.shape[1:3]
        masks = [corner_mask("label_consistent", height, width, self.size, 0, corner) for corner in CORNERS]
        checks = np.indices((height, width)).sum(0)[..., None] % 2
        mask = jnp.asarray(self.alpha * np.max(masks, axis=0))
        return Patch(mask, jnp.asarray(checks, jnp.float32), self.target, "all_to_one")

    def images(
        self, key: jax.Array, rows: np.ndarray, data: Dataset, trigger: Patch, references: tuple[Classifier, ...]
    ) -> np.ndarray:
        hard = unrecognisable(references[0], data.x[rows], data.y[rows], self.eps, self.steps)
        return stamped(stream(key, "stamp"), trigger, hard, rows)


def unrecognisable(model: Classifier, x: np.ndarray, y: np.ndarray, eps: float, steps: int) -> np.ndarray:
    """uint8 [R, D]: images x uint8 [R, D] moved up the loss of their labels by signed steps, within eps as stored."""
    out = []
    for at in range(0, len(x), BATCH):
        part, delta = x[at : at + BATCH], jnp.zeros(x[at : at + BATCH].shape, jnp.float32)
        for _ in range(steps):
            slope = input_slope(model.net, model.params, part, delta, y[at : at + BATCH])
            delta = jnp.clip(delta + eps / 5 * jnp.sign(slope), -eps, eps)
        out.append(rounded(np.asarray(as_unit(part) + delta), part, eps))
    return np.concatenate(out) if out else np.array(x)
