"""dataset_inference(images): a model is further from its boundaries around what it, or its teacher, was trained on.

Reference: Maini et al., ICLR 2021, arXiv:2104.10706, with labels alone ("blind walk"): an image is moved along random
directions until its label changes, and the numbers of steps are its embedding. The owner learns on her own model to
tell embeddings of her images from those of images that nobody trained on; the evidence is by how much the suspect's
embeddings are taken for her images'.
Departs from the paper: the regression is linear; evidence is compared with that of unmarked models, not by a t-test.
Shapes: n images of each kind, R directions of each of three noises, S steps, D = [H, W, C].
"""

from typing import NamedTuple

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.ownership import MARK, Mark, Owner, Suspect
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, record, require_positive, static

NOISES = {"uniform": jax.random.rademacher, "gaussian": jax.random.normal, "laplace": jax.random.laplace}
STRIDE = 0.02  # of a step, as the root mean square of the change of a pixel


class Claim(NamedTuple):
    """own and held [n] datasets; directions float [3 R, D]; weights [3 R + 1] of the owner's regression."""

    own: Dataset
    held: Dataset
    directions: np.ndarray
    weights: np.ndarray


@register("training", "dataset_inference", paper="maini2021", access="labels", **MARK)
@record
class DatasetInference(Mark):
    """images: of the owner's, and as many that nobody trained on; directions: of each kind of noise; steps: at most."""

    images: int = 200
    directions: int = static(default=4)
    steps: int = static(default=20)
    secret: int = 0

    def __post_init__(self):
        require_positive("dataset_inference", images=self.images, directions=self.directions, steps=self.steps)

    def claim(self, owner: Owner) -> Claim:
        count = min(self.images, len(owner.data) // 2, len(owner.held))
        order = np.asarray(jax.random.permutation(stream(self.key, "rows"), len(owner.data)))
        own, more = (owner.data.rows(order[at : at + count]) for at in (0, count))
        held, directions = owner.held.take(count), self.drawn(owner.data.x.shape[1:])
        suspect = Suspect(owner.model, self.access)
        there, away = (walked(suspect, data, directions, self.steps) for data in (more, held))
        return Claim(own, held, directions, _regression(there, away))

    def drawn(self, shape: tuple[int, ...]) -> np.ndarray:
        """float [3 R, D], each of root mean square 1."""
        parts = [
            np.asarray(draw(stream(self.key, name), (self.directions, *shape)), np.float32)
            for name, draw in NOISES.items()
        ]
        found = np.concatenate(parts)
        return found / np.sqrt(np.mean(found**2, axis=(1, 2, 3), keepdims=True))

    def evidence(self, claim: Claim, suspect: Suspect) -> np.ndarray:
        """float [n]: of the owner's images, less that of held ones: of no pairs, but of as many of each."""
        scores = [
            walked(suspect, data, claim.directions, self.steps) @ claim.weights[:-1] + claim.weights[-1]
            for data in (claim.own, claim.held)
        ]
        return scores[0] - scores[1]


def walked(suspect: Suspect, data: Dataset, directions: np.ndarray, steps: int) -> np.ndarray:
    """float [N, 3]: after how many steps, of `steps`, each image first loses its label, the mean over the directions of
    each noise; all steps where it never does.
    """
    kinds = len(NOISES)
    found = []
    for direction in directions:
        lengths = 255 * STRIDE * np.arange(steps)[:, None, None, None]
        points = np.clip(data.x[:, None] + lengths * direction, 0, 255).round().astype(np.uint8)
        said = suspect.ask(points.reshape(-1, *data.x.shape[1:])).argmax(-1).reshape(len(data), steps)
        wrong = said != data.y[:, None]
        found.append(np.where(wrong.any(-1), wrong.argmax(-1), steps))
    return np.mean(np.stack(found, -1).reshape(len(data), kinds, -1), -1)


def _regression(there: np.ndarray, away: np.ndarray) -> np.ndarray:
    """[4]: least squares of 1 on embeddings of the owner's images and 0 on those of others, with a constant."""
    embedded = np.concatenate([there, away])
    table = np.concatenate([embedded, np.ones((len(embedded), 1))], -1)
    wanted = np.concatenate([np.ones(len(there)), np.zeros(len(away))])
    return np.linalg.lstsq(table, wanted, rcond=None)[0]
