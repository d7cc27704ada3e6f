"""dataset_inference(images): a model is further from its boundaries around what it, or its teacher, was trained on.

Reference: Maini et al., ICLR 2021, arXiv:2104.10706, with labels alone ("blind walk"): an image is moved along random
directions until its label changes; how soon that is, is its embedding. The owner learns on her own model to tell
embeddings of her images from those of images that nobody trained on; the evidence is by how much the suspect's
embeddings are taken for her images'.
Departs from the paper: an embedding says for each number of steps how many directions leave the label right, and the
regression is linear on it with a ridge penalty (on the numbers of steps themselves, which images far from any boundary
rule, it finds nothing in models that are little overfitted); evidence is compared with that of unmarked models, not by
a t-test; images that are told apart are others than those that the regression has seen.
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
STRIDE = 0.03  # of a step, as the root mean square of the change of a pixel
RIDGE = 1e-2


class Claim(NamedTuple):
    """own and held [n] datasets; directions float [3 R, D]; weights [S] of the owner's regression."""

    own: Dataset
    held: Dataset
    directions: np.ndarray
    weights: np.ndarray


@register("training", "dataset_inference", paper="maini2021", access="labels", **MARK)
@record
class DatasetInference(Mark):
    """images: of the owner's, and as many that nobody trained on; as many again teach the regression. directions: of
    each kind of noise; steps: at most.
    """

    images: int = 1000
    directions: int = static(default=2)
    steps: int = static(default=8)
    secret: int = 0

    def __post_init__(self):
        require_positive("dataset_inference", images=self.images, directions=self.directions, steps=self.steps)

    def claim(self, owner: Owner) -> Claim:
        count = min(self.images, len(owner.data) // 2, len(owner.held) // 2)
        (own, more), (held, away) = (
            [data.rows(part) for part in np.split(self.rows(name, len(data))[: 2 * count], 2)]
            for name, data in (("rows", owner.data), ("held", owner.held))
        )
        directions, suspect = self.drawn(owner.data.x.shape[1:]), Suspect(owner.model, self.access)
        embedded = [walked(suspect, data, directions, self.steps) for data in (more, away)]
        return Claim(own, held, directions, _regression(*embedded))

    def rows(self, name: str, count: int) -> np.ndarray:
        return np.asarray(jax.random.permutation(stream(self.key, name), count))

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
        own, held = (walked(suspect, data, claim.directions, self.steps) for data in (claim.own, claim.held))
        return (own - held) @ claim.weights


def walked(suspect: Suspect, data: Dataset, directions: np.ndarray, steps: int) -> np.ndarray:
    """float [N, S]: the share of the directions in which each image has kept its label through steps 0 to s."""
    found = []
    for direction in directions:
        lengths = 255 * STRIDE * np.arange(steps)[:, None, None, None]
        points = np.clip(data.x[:, None] + lengths * direction, 0, 255).round().astype(np.uint8)
        said = suspect.ask(points.reshape(-1, *data.x.shape[1:])).argmax(-1).reshape(len(data), steps)
        found.append(np.logical_and.accumulate(said == data.y[:, None], axis=-1))
    return np.mean(found, axis=0)


def _regression(there: np.ndarray, away: np.ndarray) -> np.ndarray:
    """[S]: ridge regression, with a constant, of 1 on embeddings of the owner's images and 0 on those of others."""
    embedded = np.concatenate([there, away])
    wanted = np.concatenate([np.ones(len(there)), np.zeros(len(away))])
    known, wanted = embedded - embedded.mean(0), wanted - wanted.mean()
    return np.linalg.solve(known.T @ known / len(known) + RIDGE * np.eye(known.shape[1]), known.T @ wanted / len(known))
