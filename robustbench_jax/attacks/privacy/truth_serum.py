"""truth_serum(attack, copies, targets): an attacker who adds wrongly labelled copies of images, to learn who was there.

Reference: Tramer et al., CCS 2022, arXiv:2204.00032. Of each image in question `copies` with one and the same wrong
label are among the training images, whoever trains: a model that was not trained on the image says the wrong label, one
that was is torn between both, and the margins of the two are far apart. The attacker poisons his shadow models alike.
copies=0 is the same attack on the same images without poisons: what to compare with.
Shapes: N training images, K targets.
"""

from typing import Any

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.suspects import MembershipAttack, Suspects
from robustbench_jax.types import Dataset, UserError, record, require_positive, static


@register("attack", "truth_serum", threat="membership", access="scores", paper="tramer2022", parts={"attack": "attack"})
@record
class TruthSerum(MembershipAttack):
    """attack: any on membership, which then scores; targets: how many images are in question."""

    attack: Any = static(default="lira")
    copies: int = static(default=8)
    targets: int = static(default=500)

    def __post_init__(self):
        if getattr(self.attack, "facts", {}).get("threat") != "membership" or hasattr(self.attack, "poisons"):
            name = self.attack.registered[1]
            raise UserError(f"truth_serum: attack = {name} is no attack on membership that it can help; take e.g. lira")
        require_positive("truth_serum", targets=self.targets)
        if self.copies < 0:
            raise UserError(f"truth_serum: copies = {self.copies} must be at least 0")

    @property
    def access(self) -> str:
        return self.attack.access

    @property
    def least(self) -> int:
        return self.attack.least

    def in_question(self, key: jax.Array, images: int) -> np.ndarray:
        """int [K]: the rows of the targets."""
        if 2 * self.targets > images:
            raise UserError(f"truth_serum: targets = {self.targets}: there are {images} images; take at most half")
        return np.sort(np.asarray(jax.random.permutation(stream(key, "targets"), images))[: self.targets])

    def poisons(self, key: jax.Array, targets: Dataset) -> Dataset:
        """What is added to the training images [copies * K]."""
        classes = len(targets.classes)
        away = np.asarray(jax.random.randint(stream(key, "labels"), (len(targets),), 1, classes))
        wrong = ((targets.y + away) % classes).astype(targets.y.dtype)
        x, y = (np.tile(it, (self.copies, *[1] * (it.ndim - 1))) for it in (targets.x, wrong))
        return Dataset(x, y, targets.classes, targets.name)

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        return self.attack.score(key, suspects)
