"""What defences of training data share: a score for each image, and then which images to leave out.

Scores are of dataset rows, of images as they are: neither augmented nor shuffled. ROC curves and thresholds come after.
Shapes: N training images, D = [H, W, C].
"""

from typing import Any

import jax
import numpy as np

from robustbench_jax.types import Classifier, Dataset, UserError


class Sanitiser:
    """What a registered data defence is. It leaves out the share `remove` of all images, those with the highest scores.

    looks: whether it needs a model trained on the poisoned data; where not, `model` is None.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    looks = True
    remove: float

    def __post_init__(self):
        if not 0 <= self.remove < 1:
            raise UserError(f"{self.registered[1]}: remove = {self.remove} must be at least 0 and below 1")

    def score(self, key: jax.Array, model: Classifier | None, data: Dataset, trusted: Dataset) -> np.ndarray:
        """How suspicious each image of `data` is: float [N], finite, larger for more.

        model: trained on `data`; trusted: images that the defender knows to be clean. The key is consumed.
        """
        raise NotImplementedError

    def removed(self, scores: np.ndarray, data: Dataset) -> np.ndarray:
        """bool [N]: which images are left out of training. Of equal scores those of lower rows stay."""
        out = np.zeros(len(scores), bool)
        count = round(self.remove * len(scores))
        out[np.argsort(scores, kind="stable")[len(scores) - count :]] = True
        return out
