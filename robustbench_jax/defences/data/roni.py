"""roni(remove): images that make a model trained with them worse on trusted ones.

References: reject on negative impact, Barreno et al., Machine Learning 2010, and Nelson et al., LEET 2008. The model
that is trained with and without each image is a ridge regression from the features to the classes, so that training
with one more image is exact and in closed form (Sherman & Morrison, 1950). Its squared loss on one half of the trusted
images is compared, after training on the other half; the score is the mean over `splits`.
Shapes: N images, n trusted ones of a half, F features, C classes.
"""

import jax
import numpy as np

from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.models.features import features_of
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@register("data_defence", "roni", paper="nelson2008")
@record
class RONI(Sanitiser):
    """remove: share of all images; splits: of the trusted images; ridge: relative to the features' mean square."""

    remove: float = 0.05
    splits: int = static(default=5)
    ridge: float = 1e-2

    def __post_init__(self):
        super().__post_init__()
        require_positive("roni", splits=self.splits, ridge=self.ridge)

    def score(self, key: jax.Array, model: Classifier, data: Dataset, trusted: Dataset) -> np.ndarray:
        if len(trusted) < 4:
            raise UserError(f"roni: {len(trusted)} trusted images; at least 4 are needed")
        seen, known = _with_one(features_of(model, data.x)), _with_one(features_of(model, trusted.x))
        classes = np.eye(len(data.classes))
        ridge = self.ridge * float(np.mean(known[:, :-1] ** 2)) * len(known) / 2
        total = np.zeros(len(data))
        for number in range(self.splits):
            order = np.asarray(jax.random.permutation(jax.random.fold_in(key, number), len(known)))
            base, held = np.array_split(order, 2)
            total += impact(
                known[base],
                classes[trusted.y[base]],
                known[held],
                classes[trusted.y[held]],
                seen,
                classes[data.y],
                ridge,
            )
        return total / self.splits


def impact(x, y, held_x, held_y, added_x, added_y, ridge: float) -> np.ndarray:
    """[N]: by how much each of the images added_x [N, F], added_y [N, C] raises the mean squared loss on held_x [n, F],
    held_y [n, C] of the ridge regression on x and y.
    """
    inverse = np.linalg.inv(x.T @ x + ridge * np.eye(x.shape[1]))
    weights = inverse @ x.T @ y
    moves = added_x @ inverse
    leverage = np.sum(moves * added_x, -1)
    wrong = (added_y - added_x @ weights) / (1 + leverage)[:, None]
    left, moved = held_x @ weights - held_y, moves @ held_x.T
    first = 2 * np.sum((moved @ left) * wrong, -1)
    return (first + np.sum(moved**2, -1) * np.sum(wrong**2, -1)) / len(held_x)


def _with_one(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)
