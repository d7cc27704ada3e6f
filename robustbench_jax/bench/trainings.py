"""How trainings went: the learning curves of models that were trained for records, and what casts doubt on them.

A pure function of records: a model that was trained with images held out has its curve in their provenance. Robust
overfitting (Rice et al., ICML 2020, arXiv:2002.11569) is a fall from the best epoch to the last one, while accuracy on
the attacked training images rises; catastrophic overfitting, where all of it is lost, is a flag (learning_curve.py).
Shapes: E epochs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.groups import grouped, name, victim
from robustbench_jax.bench.records import Record
from robustbench_jax.bench.seeds import spread
from robustbench_jax.bench.sheets import Sheet

NOTE = (
    "Accuracy in %: robust, of training images that were held out, at the end of an epoch, under the attack that the "
    "training watches; training, of the images that were trained on, as the defence made them. Fall: from the best "
    "epoch to the last one. Means over seeds, the fall with the 95% t-interval; the epoch is the median."
)
HEAD = ["Model", "Epochs", "Best epoch", "Robust, best", "Robust, last", "Fall", "Training, best", "Training, last"]
HEAD += ["Held out", "Seeds"]


@dataclass(frozen=True)
class Training:
    """One training. accuracy: on the training images as the defence made them [E]; clean, robust: on `held` images
    without and with the attack that it watches [E]; kept: the epoch, from 1, whose weights were returned.
    """

    model: str
    dataset: str
    seed: int
    accuracy: np.ndarray
    clean: np.ndarray
    robust: np.ndarray
    kept: int
    held: int

    @property
    def best(self) -> int:
        """The epoch, from 0, with the highest robust accuracy."""
        return int(np.argmax(self.robust))


def trainings(records: Iterable[Record]) -> list[Training]:
    """Those with two epochs or more in which robust accuracy on images held out is known, each once."""
    found = [group[0] for group in grouped(records, _trained) if _curve(group[0]).get("robust")]
    made = [_read(record.cell, _curve(record)) for record in found]
    return [training for training in made if len(training.robust) > 1]


def flags(records: Iterable[Record]) -> list[str]:
    """What trainings say against themselves, a line each."""
    said = [(group[0].cell, flag) for group in grouped(records, _trained) for flag in _of_training(group[0], "flags")]
    return [f"{_name(cell)}{f' · seed {cell.seed}' * bool(cell.seed)}: {flag}" for cell, flag in said]


def sheets(records: Iterable[Record]) -> list[Sheet]:
    """One for each data set with such trainings."""
    places: dict[str, dict[str, list[Training]]] = {}
    for training in trainings(records):
        places.setdefault(training.dataset, {}).setdefault(training.model, []).append(training)
    return [
        Sheet(f"{dataset} · learning curves", NOTE, HEAD, [_row(model, each) for model, each in of.items()])
        for dataset, of in places.items()
    ]


def _row(model: str, each: list[Training]) -> list[str]:
    robust, training = ([_ends(t, column) for t in each] for column in ("robust", "accuracy"))
    falls = [best - last for best, last in robust]
    means = [f"{100 * value:.1f}" for pairs in (robust, training) for value in np.mean(pairs, axis=0)]
    epoch, epochs = np.median([training.best + 1 for training in each]), len(each[0].robust)
    fall = spread(falls) if len(each) > 1 else f"{100 * falls[0]:.1f}"
    return [model, str(epochs), f"{epoch:.0f}", *means[:2], fall, *means[2:], str(each[0].held), str(len(each))]


def _ends(training: Training, column: str) -> tuple[float, float]:
    """A column at the best epoch and at the last one."""
    return getattr(training, column)[training.best], getattr(training, column)[-1]


def _trained(cell: Cell) -> tuple:
    """What names a training: model defences come after it."""
    return (*victim(cell)[:-1], cell.dataset, cell.seed)


def _of_training(record: Record, what: str) -> list:
    return (record.provenance.get("training") or {}).get(what) or []


def _curve(record: Record) -> dict:
    return (record.provenance.get("training") or {}).get("curve") or {}


def _read(cell: Cell, curve: dict) -> Training:
    columns = [np.array(curve[column], float) for column in ("accuracy", "clean", "robust")]
    return Training(_name(cell), cell.show("dataset"), cell.seed, *columns, curve["kept"], curve["held"])


def _name(cell: Cell) -> str:
    """Without what was made of the model after its training."""
    return name(cell.model_copy(update={"model_defence": ""}))
