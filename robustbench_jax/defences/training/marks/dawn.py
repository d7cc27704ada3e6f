"""dawn(rate): the service answers a few questions wrongly, and whoever learns from it learns these.

Reference: Szyller et al., ACM Multimedia 2021, arXiv:1906.00830: a keyed hash of the image decides whether its answer
is wrong, and how, so that asking again gives the same. Nothing is embedded in the model: what is stolen with its
weights has no mark, and what was never asked has none to verify.
Departs from the paper: the hash is of the image's bytes, without the embedding that makes it the same for almost equal
images; the answer changes places with the true one in the logits.
Shapes: N images asked, C classes, D = [H, W, C].
"""

import hashlib
import hmac

import numpy as np

from robustbench_jax.defences.training.marks.triggers import Triggers, matches
from robustbench_jax.ownership import MARK, Mark, Owner, Suspect
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("training", "dawn", paper="szyller2021", access="labels", **MARK)
@record
class Dawn(Mark):
    """rate: the share of questions that are answered wrongly."""

    rate: float = 0.02
    secret: int = 0

    def __post_init__(self):
        if isinstance(self.rate, int | float) and not 0 < self.rate < 1:
            raise UserError(f"dawn: rate = {self.rate} must be above 0 and below 1")

    def turns(self, x: np.ndarray, classes: int) -> np.ndarray:
        """int [N]: by how many classes the answer to each image uint8 [N, D] is moved on; 0 for a right answer."""
        found = np.zeros(len(x), int)
        for i, image in enumerate(np.ascontiguousarray(x)):
            code = hmac.new(str(self.secret).encode(), image.tobytes(), hashlib.sha256).digest()
            if int.from_bytes(code[:8]) < self.rate * 2**64:
                found[i] = 1 + int.from_bytes(code[8:16]) % (classes - 1)
        return found

    def serve(self, x: np.ndarray, logits: np.ndarray) -> np.ndarray:
        classes = logits.shape[-1]
        turns, rows, top = self.turns(x, classes), np.arange(len(x)), logits.argmax(-1)
        said, answers = (top + turns) % classes, np.array(logits)
        answers[rows, top], answers[rows, said] = logits[rows, said], logits[rows, top]
        return answers

    def claim(self, owner: Owner) -> Triggers:
        """The images that were answered wrongly, each once, and the answers."""
        asked, said = _all_that_was(owner)
        altered = self.turns(asked, len(owner.data.classes)) > 0
        once = list({image.tobytes(): row for row, image in enumerate(asked) if altered[row]}.values())
        return asked[once], said[once]

    def evidence(self, claim: Triggers, suspect: Suspect) -> np.ndarray:
        return matches(claim, suspect)


def _all_that_was(owner: Owner) -> Triggers:
    """Images asked uint8 [N, D], and the labels that were answered."""
    if not owner.asked:
        return owner.data.x[:0], owner.data.y[:0]
    images, answers = zip(*owner.asked, strict=True)
    return np.concatenate(images), np.concatenate([logits.argmax(-1) for logits in answers]).astype(np.int32)
