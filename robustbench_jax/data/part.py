"""part(dataset, first, last): some of another dataset's training examples, with its whole test split.

What is private and what is public may so be parts of one dataset, that have no example in common.
"""

from typing import Any

from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, static


@register("dataset", "part", parts={"dataset": "dataset"})
@record
class Part:
    """The training examples from `first` to below `last`, counted from 0."""

    dataset: Any
    first: int = static()
    last: int = static()

    def __post_init__(self):
        if not 0 <= self.first < self.last:
            raise UserError(f"part: first = {self.first} must be at least 0 and below last = {self.last}")

    def available(self) -> bool:
        return self.dataset.available()

    def how_to_get(self) -> str:
        return self.dataset.how_to_get()

    def load(self, split: str, limit: int | None) -> Dataset:
        """Raises UserError where there are fewer."""
        if split == "test":
            return self.dataset.load(split, limit)
        data = self.dataset.load(split, None)
        if self.last > len(data):
            raise UserError(f"part: last = {self.last}: {data.name} has {len(data)} training examples")
        return data.rows(slice(self.first, self.last))
