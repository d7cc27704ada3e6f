"""census(): people who were never there, drawn from a distribution that is known exactly.

A person is a health h and an income y, drawn together from the table JOINT, and ten columns, each of which depends on
both, independently given both. A column's values have probabilities proportional to
exp(0.6 a[v] + 0.3 (b[h, v] + c[y, v] + d[h, y, v])), with standard normal a, b, c, d from NumPy's generator of seed
TABLES, drawn in this order, column by column. So what the other columns and the income say of the health, and what the
columns say of the income, are sums over four million cells: the best guess that reads no model is known
(`best_guess`). The label is the income, the health is private.
Columns: each of COLUMNS one-hot in so many pixels, in this order, and the health's last: images [1, 51, 1] of 0
and 255.
Shapes: N people, V values, H values of health, Y of income.
"""

from functools import lru_cache

import numpy as np

from robustbench_jax.registry import register
from robustbench_jax.types import Attribute, Dataset, record, require_positive, static

COLUMNS = {  # so many values each
    "age": 6,
    "education": 5,
    "work": 6,
    "hours": 4,
    "housing": 4,
    "household": 5,
    "region": 8,
    "commute": 4,
    "insurance": 3,
    "savings": 3,
}
HEALTH, INCOME = ("good", "chronic illness", "disability"), ("low", "high")
JOINT = np.array([[0.26, 0.26], [0.21, 0.09], [0.15, 0.03]])  # of health and income
TABLES = 1994
SPLITS = ("train", "test")


@register("dataset", "census")
@record
class Census:
    """train, test: how many people each split has; seed: of the draw, not of the distribution."""

    train: int = static(default=6000)
    test: int = static(default=6000)
    seed: int = static(default=0)

    def __post_init__(self):
        require_positive("census", train=self.train, test=self.test)

    def available(self) -> bool:
        return True

    def load(self, split: str, limit: int | None) -> Dataset:
        count = {"train": self.train, "test": self.test}[split]
        rng = np.random.default_rng([self.seed, SPLITS.index(split)])
        health, income = np.divmod(rng.choice(JOINT.size, count, p=JOINT.ravel()), len(INCOME))
        drawn = [_draw(rng, table[health, income]) for table in tables()] + [health]
        widths = [*COLUMNS.values(), len(HEALTH)]
        x = np.concatenate([np.eye(n, dtype=np.uint8)[v] * 255 for v, n in zip(drawn, widths, strict=True)], axis=1)
        private = Attribute("health", health.astype(np.int32), HEALTH, (x.shape[1] - len(HEALTH), x.shape[1]))
        return Dataset(x[:, None, :, None], income.astype(np.int32), INCOME, "census", private)


@lru_cache
def tables() -> tuple[np.ndarray, ...]:
    """For each column the probabilities [H, Y, V] of its values."""
    rng, out = np.random.default_rng(TABLES), []
    for values in COLUMNS.values():
        shapes = (1, 1, values), (len(HEALTH), 1, values), (1, len(INCOME), values), (*JOINT.shape, values)
        base, *by = (rng.normal(size=shape) for shape in shapes)
        weights = np.exp(0.6 * base + 0.3 * sum(by))
        out.append(weights / weights.sum(-1, keepdims=True))
    return tuple(out)


def posterior(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The probability [N, H] of each health, given the other columns of people x [N, 1, 51, 1] and their income y."""
    flat, at = x.reshape(len(x), -1) > 0, 0
    logs = np.log(JOINT)[:, y].T
    for table in tables():
        values = table.shape[-1]
        logs = logs + np.log(table)[:, y, flat[:, at : at + values].argmax(-1)].T
        at += values
    shares = np.exp(logs - logs.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@lru_cache
def best_guess() -> float:
    """How often the likeliest health, given columns and income, is the right one: the Bayes rate, exactly."""
    total = 0.0
    for income in range(len(INCOME)):
        mass = JOINT[:, income, None]
        for table in tables():
            mass = (mass[:, :, None] * table[:, income, None, :]).reshape(len(HEALTH), -1)
        total += mass.max(0).sum()
    return float(total)


def _draw(rng: np.random.Generator, shares: np.ndarray) -> np.ndarray:
    """One value [N] for each of the rows of probabilities [N, V]."""
    return (rng.random((len(shares), 1)) > np.cumsum(shares, -1)[:, :-1]).sum(-1)
