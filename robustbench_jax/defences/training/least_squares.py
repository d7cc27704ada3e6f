"""least_squares(penalty): the features of a network that nobody has trained, and a last layer by ridge regression.

Reference: Rosenfeld, Winston, Ravikumar & Kolter, ICML 2020, arXiv:2002.03018: what flipped labels can do is proved of
a last layer that is linear in the labels, on features that no label has a part in. Departs from the paper: its features
come from other data or from training without labels; these are the network's as it begins, wide ones for choice.
Shapes: N images, F features, C classes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.learning_curve import Curve
from robustbench_jax.models.features import features_of
from robustbench_jax.models.readout import LABELS, SPEAKERS, Readout
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.training import Run, Trained, TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive


@register("training", "least_squares", paper="rosenfeld2020", surrogate="standard")
@record
class LeastSquares(TrainingDefence):
    """penalty: of the weights, in units of the mean over features of their sum of squares. The recipe is not used."""

    penalty: float = 0.01

    def __post_init__(self):
        require_positive("least_squares", penalty=self.penalty)

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        if "head/kernel" not in model.params or model.params["head/kernel"].ndim != 2:
            raise UserError("least_squares: the model has no dense head of its own; take e.g. mlp([512])")
        features = features_of(model, data.x)
        speakers = solved(features, self.penalty).astype(np.float32)
        head = speakers.astype(np.float64).T @ np.eye(len(data.classes))[data.y]
        params = model.params | {"head/kernel": _array(head[:-1]), "head/bias": _array(head[-1])}
        params |= {SPEAKERS: jnp.asarray(speakers), LABELS: jnp.asarray(data.y, jnp.int32)}
        fitted = Classifier(Readout(model.net, len(data)), params)
        scores = features @ head[:-1] + head[-1]
        loss = float(np.mean((scores - np.eye(len(data.classes))[data.y]) ** 2))
        right = float(np.mean(scores.argmax(1) == data.y))
        return fitted, Curve((loss,), (right,), None, None, kept=1)


def solved(features: np.ndarray, penalty: float) -> np.ndarray:
    """float64 [N, F + 1]: times labels [N, C] these give the ridge regression of features [N, F] and a constant."""
    rows = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    squares = rows.T @ rows
    weight = penalty * np.mean(np.diag(squares)) * np.eye(len(squares))
    return np.linalg.solve(squares + weight, rows.T).T


def _array(values: np.ndarray) -> jax.Array:
    return jnp.asarray(values, jnp.float32)
