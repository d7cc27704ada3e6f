"""The lab: what a threat needs that is about training rather than about a trained model.

A defender knows some training images to be clean (TRUSTED of them, drawn by key): attackers never touch these, repairs
and inspections see no others. Where there are none of these, an attacker may take them too. The victim is trained on
them as on all the others. A surrogate (what an attacker trains for himself) has the victim's architecture, recipe and
training defence, and other seeds.
Shapes: N training images.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import stream
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack
from robustbench_jax.types import Classifier, Dataset, Metric, UserError

TRUSTED = 0.05  # share of the training images; BackdoorBench gives its defences as many


@dataclasses.dataclass(frozen=True, eq=False)
class Lab:
    """data: training images, clean; test: the whole test split. fit(data, controller, surrogate) -> Classifier
    trains on data, or finds what was trained so before: with the victim's training defence, with what `controller` (an
    attacker who has a hand in training) makes of it unless that is None, or as surrogate number so and so.
    fit_learning(data, controller) -> (Classifier, arrays by name): also what the controller's training learned beside
    the model.
    fit_shadows(data, rows [M, n]) -> M models, each trained on its own rows of the data: the attacker's, the same ones
    for all seeds of a cell. guarantee(images): what a differentially private training of so many promises; None where
    it promises nothing. notes(data): what the training on these data said of itself, in numbers by name (see
    learning_curve.Curve). fresh() -> the victim before training; blank(key) -> its architecture with other
    weights. owned: the training defence as the victim's owner knows it, with her secret. sanitiser, inspector,
    protector: the built data defence, inspection and model defence; None for none.
    """

    key: jax.Array
    data: Dataset
    test: Dataset
    fit: Callable[..., Classifier]
    sanitiser: Any = None
    inspector: Any = None
    protector: Any = None
    fit_shadows: Callable[..., tuple[Classifier, ...]] | None = None
    guarantee: Callable[[int], Any] | None = None
    fresh: Callable[[], Classifier] | None = None
    notes: Callable[[Dataset], dict[str, float]] | None = None
    owned: Any = None
    blank: Callable[[jax.Array], Classifier] | None = None
    fit_learning: Callable[..., tuple[Classifier, dict[str, Any]]] | None = None

    @property
    def defended(self) -> bool:
        """Whether something is done about poisons beside the training itself."""
        return self.sanitiser is not None or self.protector is not None

    @cached_property
    def known(self) -> np.ndarray:
        """bool [N]: the trusted rows."""
        marks = np.zeros(len(self.data), bool)
        order = np.asarray(jax.random.permutation(stream(self.key, "trusted"), len(marks)))
        marks[order[: round(TRUSTED * len(marks))]] = True
        return marks

    @cached_property
    def trusted(self) -> Dataset:
        return self.data.rows(self.known)

    def promises(self, trained_on: Dataset) -> dict[str, Metric]:
        """The epsilon that a private training on these data promises, and what it came to, where it says so."""
        found = {} if self.guarantee is None else {"epsilon": metrics.promise(self.guarantee(len(trained_on)))}
        notes = self.notes(trained_on) if self.notes else {}
        names = [name for name in ("epsilon_data_dependent", "epsilon_data_dependent_told") if name in notes]
        return found | {name: metrics.number(name, notes[name], 1) for name in names}

    def surrogates(self, count: int) -> tuple[Classifier, ...]:
        """So many models trained on the clean data with other seeds than the victim's."""
        return tuple(self.fit(self.data, surrogate=number) for number in range(count))

    def poisoned(
        self, attack: PoisoningAttack, count: int, make: Callable[[Dataset, tuple], PoisonedDataset]
    ) -> PoisonedDataset:
        """What `make(images that may be poisoned, surrogates)` gives, put where it belongs among all images.

        Raises UserError for more poisons than images that are not trusted; where no defence asks for trusted ones, the
        attacker may then take all images, which is flagged.
        """
        open_rows, images, more = np.flatnonzero(~self.known), len(self.data), ()
        if count > len(open_rows):
            if self.defended or self.inspector is not None:
                raise UserError(f"{count} poisons: {len(open_rows)} of {images} training images are not trusted")
            open_rows, more = np.arange(images), ("no image is trusted: the attacker may change all of them",)
        made = make(self.data.rows(open_rows), self.surrogates(attack.references if count else 0))
        if not made.poisoned.any():
            return dataclasses.replace(made, dataset=self.data, poisoned=np.zeros(images, bool))
        whole = spread(self.data, open_rows, made)
        return dataclasses.replace(whole, flags=(*whole.flags, *more))

    def protect(self, key: jax.Array, model: Classifier, trigger: Any = None) -> Classifier:
        """What the model defence makes of a model, with the trusted images; an oracle is told the trigger."""
        if self.protector is None:
            return model
        oracle = trigger is not None and hasattr(self.protector, "knowing")
        protector = self.protector.knowing(trigger) if oracle else self.protector
        return protector.protect(key, model, self.trusted)


def spread(data: Dataset, rows: np.ndarray, made: PoisonedDataset) -> PoisonedDataset:
    """`made` of rows int [R] of the data, as poisoned data of all N rows; what was added comes last."""
    inner, count = made.dataset, len(rows)
    x, y, poisoned = np.array(data.x), np.array(data.y), np.zeros(len(data), bool)
    x[rows], y[rows], poisoned[rows] = inner.x[:count], inner.y[:count], made.poisoned[:count]
    if len(inner) > count:
        x, y = np.concatenate([x, inner.x[count:]]), np.concatenate([y, inner.y[count:]])
        poisoned = np.concatenate([poisoned, made.poisoned[count:]])
    return dataclasses.replace(made, dataset=Dataset(x, y, data.classes, data.name), poisoned=poisoned)
