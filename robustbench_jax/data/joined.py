"""joined([a, b, ...]): the training images of several datasets, tested on the first: extra or synthetic data.

References: Carmon et al., NeurIPS 2019, arXiv:1905.13736 (extra images); Gowal et al., NeurIPS 2021, arXiv:2110.09468
(generated ones). Images are drawn evenly from all; the papers set the extra images' share of each batch.
"""

import dataclasses

import numpy as np

from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record


@register("dataset", "joined", paper="carmon2019", parts={"datasets": "dataset"})
@record
class Joined:
    """Images must have one shape. Classes are those of the first; where others have no names, only numbers, there may
    be fewer of them.
    """

    datasets: tuple = dataclasses.field(metadata={"static": False})

    def __post_init__(self):
        if not isinstance(self.datasets, tuple) or not self.datasets:
            raise UserError("joined needs a list of datasets; write e.g. joined([cifar10, npz('extra.npz')])")

    def available(self) -> bool:
        return all(part.available() for part in self.datasets)

    def how_to_get(self) -> str:
        missing = next(part for part in self.datasets if not part.available())
        return f"of it '{missing.registered[1]}' is missing: {missing.how_to_get()}"

    def load(self, split: str, limit: int | None) -> Dataset:
        """Raises UserError where shapes or classes do not agree."""
        if split == "test":
            return self.datasets[0].load(split, limit)
        loaded = []
        for part in self.datasets:
            loaded.append(part.load(split, None))
            _require_alike(loaded[0], loaded[-1])
        first, names = loaded[0], ", ".join(data.name for data in loaded)
        x, y = (np.concatenate([getattr(data, name) for data in loaded]) for name in ("x", "y"))
        return Dataset(x, y, first.classes, f"joined({names})")


def _require_alike(first: Dataset, other: Dataset) -> None:
    if other.x.shape[1:] != first.x.shape[1:]:
        shapes = f"{list(other.x.shape[1:])}, those of {first.name} have {list(first.x.shape[1:])}"
        raise UserError(f"joined: images of {other.name} have shape {shapes}")
    numbered = all(name == str(number) for number, name in enumerate(other.classes))
    if other.classes != first.classes and not (numbered and len(other.classes) <= len(first.classes)):
        names = f"{', '.join(other.classes[:3])}, ...; those of {first.name} {', '.join(first.classes[:3])}, ..."
        raise UserError(f"joined: the {len(other.classes)} classes of {other.name} are {names}")
