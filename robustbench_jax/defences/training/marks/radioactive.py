"""radioactive(share, levels): images that leave a mark in whatever is trained on them.

Reference: Sablayrolles et al., ICML 2020, arXiv:2002.00937: the features of each class are moved along a secret
direction; with black-box access the test is whether the suspect's loss is lower on marked images than on the same
without the mark.
Departs from the paper: the marking features are linear, drawn by the secret key, so that every image of a class is
moved by one pattern of signs; images that nobody trained on are what the test asks about.
Shapes: N images, n of the test, C classes, D = [H, W, C].
"""

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.ownership import MARK, Mark, Owner, Suspect
from robustbench_jax.registry import register
from robustbench_jax.suspects import log_probability
from robustbench_jax.types import Dataset, UserError, record, require_positive

Claim = tuple[np.ndarray, np.ndarray, np.ndarray]


@register("training", "radioactive", paper="sablayrolles2020", access="scores", **MARK)
@record
class Radioactive(Mark):
    """share: of the training images that are marked; levels: by how many of 255 each pixel is moved; images: that the
    test asks about, with and without the mark.
    """

    share: float = 0.2
    levels: int = 10
    images: int = 200
    secret: int = 0

    def __post_init__(self):
        require_positive("radioactive", levels=self.levels, images=self.images)
        if isinstance(self.share, int | float) and not 0 < self.share <= 1:
            raise UserError(f"radioactive: share = {self.share} must be above 0 and at most 1")

    def patterns(self, classes: int, shape: tuple[int, ...]) -> np.ndarray:
        """int [C, D] of -levels and levels."""
        drawn = jax.random.rademacher(stream(self.key, "directions"), (classes, *shape), np.int32)
        return self.levels * np.asarray(drawn)

    def moved(self, x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
        """Images x uint8 [N, D] of classes y [N], marked."""
        return np.clip(x.astype(int) + self.patterns(classes, x.shape[1:])[y], 0, 255).astype(np.uint8)

    def marked(self, data: Dataset) -> Dataset:
        order = np.asarray(jax.random.permutation(stream(self.key, "rows"), len(data)))
        rows, x = order[: round(self.share * len(data))], np.array(data.x)
        x[rows] = self.moved(data.x[rows], data.y[rows], len(data.classes))
        return Dataset(x, data.y, data.classes, data.name)

    def claim(self, owner: Owner) -> Claim:
        """(images, the same marked, labels) of held images."""
        held = owner.held.take(min(self.images, len(owner.held)))
        return held.x, self.moved(held.x, held.y, len(held.classes)), held.y

    def evidence(self, claim: Claim, suspect: Suspect) -> np.ndarray:
        """float [n]: by how much the loss of an image falls with the mark, in nats."""
        plain, moved, y = claim
        return log_probability(suspect.ask(moved), y) - log_probability(suspect.ask(plain), y)
