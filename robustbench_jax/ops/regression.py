"""Softmax regression: the classifier that attackers fit to what they know.

Shapes: N examples, F features, C classes.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

RIDGES = (1.0, 0.1, 0.01, 0.001)
FOLDS = 3
STEPS = 100  # of L-BFGS


def chosen_regression(x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Weights of the regression with that one of RIDGES that does best on FOLDS parts of the examples, each left out in
    its turn; example i belongs to part i % FOLDS. With few examples a weak ridge is worse than no regression at all.
    """
    part = np.arange(len(y)) % FOLDS
    losses = np.zeros(len(RIDGES))
    for fold in range(FOLDS if len(y) > FOLDS else 0):
        own, weights = part != fold, None
        for i, ridge in enumerate(RIDGES):
            weights = softmax_regression(x[own], y[own], classes, ridge, weights)
            logs = log_shares(x[~own], weights)
            losses[i] -= np.take_along_axis(logs, y[~own, None], 1).sum()
    return softmax_regression(x, y, classes, RIDGES[int(np.argmin(losses))])


def softmax_regression(
    x: np.ndarray, y: np.ndarray, classes: int, ridge: float, start: np.ndarray | None = None
) -> np.ndarray:
    """Weights float64 [F + 1, C], the constants last, that minimise the mean cross-entropy of labels y int [N] on x
    [N, F] plus ridge / 2 times the squared norm of all but the constants. start: weights to begin at.
    """
    penalty = np.full((x.shape[1] + 1, 1), ridge)
    penalty[-1] = 0
    start = np.zeros((x.shape[1] + 1, classes)) if start is None else start
    value = _objective(x, y, classes, penalty)
    found = minimize(value, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "ftol": 1e-6})
    return found.x.reshape(-1, classes)


def softmax_minimum(x: np.ndarray, y: np.ndarray, classes: int, ridge: float, slope: float) -> np.ndarray:
    """As softmax_regression, constants penalised as well, until no more than a gradient of length `slope` is left."""
    each = slope / np.sqrt((x.shape[1] + 1) * classes)  # of the largest part, so that the length is less
    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 0.0, "gtol": each}
    start = np.zeros((x.shape[1] + 1) * classes)
    found = minimize(_objective(x, y, classes, ridge), start, jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(-1, classes)


def slope_left(x: np.ndarray, y: np.ndarray, weights: np.ndarray, ridge: float) -> float:
    """The length of the gradient at the weights, constants penalised as well."""
    return float(np.linalg.norm(_objective(x, y, weights.shape[1], ridge)(weights.ravel())[1]))


def _objective(x: np.ndarray, y: np.ndarray, classes: int, penalty: float | np.ndarray):
    """Flat weights -> (mean cross-entropy + penalty / 2 squared weights, flat gradient)."""
    x, hits = _with_one(x), np.eye(classes)[y]

    def value(flat):
        w = flat.reshape(x.shape[1], classes)
        logs = log_softmax(x @ w, -1)
        slope = x.T @ (np.exp(logs) - hits) / len(x) + penalty * w
        return -np.sum(hits * logs) / len(x) + np.sum(penalty * w**2) / 2, slope.ravel()

    return value


def log_shares(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities [N, C]."""
    return log_softmax(_with_one(x) @ weights, -1)


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1))], 1)
