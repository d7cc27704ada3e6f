"""The workshop: makes or loads what cells name, each thing once.

All cells that share a victim, now or later, train it once (victims.py).
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from robustbench_jax.bench.cells import Cell, kind_of_model
from robustbench_jax.bench.victims import defence_of, fresh, learned, name_of, run_of, train, train_together
from robustbench_jax.data import load_dataset
from robustbench_jax.keys import stream
from robustbench_jax.learning_curve import Progress
from robustbench_jax.models import build_model, files, zoo
from robustbench_jax.ownership import Mark
from robustbench_jax.registry import build, canonical, entry, parse
from robustbench_jax.threats import monitoring
from robustbench_jax.threats.lab import Lab
from robustbench_jax.traffic import Monitor
from robustbench_jax.types import Classifier, Dataset, UserError

SURROGATES, MOST_SURROGATES = 2**31, 2**10  # seeds of attackers' models lie where those of cells hardly do
SHADOWS = 2**30


def load_model(text: str) -> Classifier:
    """A trained model: a name in the zoo, or checkpoint("dir")."""
    return load_trained(text)[0]


def protect(model: Classifier, model_defence: str, data: Dataset, seed: int = 0) -> Classifier:
    """What a model defence makes of a trained model; data: training images, for what it has to fit."""
    return build("model_defence", model_defence).protect(stream(jax.random.key(seed), "model defence"), model, data)


def watching(model: Classifier, monitor: str, data: Dataset, seed: int = 0) -> Monitor:
    """A monitor that is ready for requests to the model; data: training images."""
    return build("monitor", monitor).prepare(stream(jax.random.key(seed), "monitor"), model, data)


def load_trained(text: str) -> tuple[Classifier, dict]:
    """A trained model and its description."""
    kind = kind_of_model(text)
    if kind == "model":
        raise UserError(
            f"'{text}' is an architecture without weights; train it first, or name one of: "
            f'{", ".join(zoo.names())}, checkpoint("dir")'
        )
    return zoo.load_shipped(text) if kind is None else build(kind, text).load()


class Workshop:
    """directory: where trained victims are kept. report: called with each Progress of a training."""

    def __init__(self, directory: str | Path, report: Callable[[str, Progress], None] = lambda what, progress: None):
        self.directory, self.report = Path(directory), report
        self.trainings: dict[tuple, dict | None] = {}
        self.dataset = lru_cache(maxsize=4)(load_dataset)
        self.model = lru_cache(maxsize=8)(self._model)
        self.protected = lru_cache(maxsize=8)(self._protected)
        self.prepared = lru_cache(maxsize=16)(self._prepared)
        self.recorded = lru_cache(maxsize=2)(self._recorded)
        self.expected: dict[tuple, list[int]] = {}

    def expect(self, cells: Iterable[Cell]) -> None:
        """Says which cells will come, so that victims which differ only in their seed can be trained together."""
        for cell in cells:
            seeds = self.expected.setdefault((cell.model, cell.defence, cell.recipe, cell.dataset), [])
            seeds += [] if cell.seed in seeds else [cell.seed]

    def victim(self, cell: Cell) -> Classifier:
        what = _trained_for(cell)
        return self._served(cell.model_defence, *what)

    def watched(self, cell: Cell) -> dict[str, Any]:
        """What a cell of monitoring is given: its monitor, prepared for its model on the training images, and what its
        attack asks, which is the same for all monitors. Nothing for any other cell.
        """
        if not cell.monitor:
            return {}
        what = cell.model_defence, *_trained_for(cell)
        asked = self.recorded(cell.attack, build("budget", cell.budget).recorded, cell.split, cell.examples, *what)
        return {"monitor": self.prepared(cell.monitor, *what), "streams": asked}

    def training(self, cell: Cell) -> dict | None:
        """What training the cell's model took and how it went, as its description says: step_s, seconds for each step,
        the curve, flags and more; None where it does not say.
        """
        what = _trained_for(cell)
        if what not in self.trainings:
            self.model(*what)
        return self.trainings[what]

    def lab(self, cell: Cell) -> Lab:
        """What the cell's threat to the training works with."""
        parts = {"data_defence": cell.data_defence, "inspection": cell.inspection, "model_defence": cell.model_defence}
        built = [build(kind, text) if text else None for kind, text in parts.items()]
        data, test = (self.dataset(cell.dataset, split, None) for split in ("train", "test"))
        private = defence_of(cell.defence, cell.seed)
        return Lab(
            stream(jax.random.key(cell.seed), "lab"),
            data,
            test,
            partial(self._fit, cell),
            *built,
            fit_shadows=partial(self._fit_shadows, cell),
            guarantee=partial(private.guarantee, build("recipe", cell.recipe))
            if hasattr(private, "guarantee")
            else None,
            fresh=partial(fresh, {"model": cell.model, "seed": cell.seed}, data),
            notes=partial(self._notes, cell),
            owned=private,
            blank=partial(build_model, cell.model, data.x.shape[1:], len(data.classes)),
            fit_learning=partial(self._fit_learning, cell),
        )

    def _fit(self, cell: Cell, data: Dataset, *, controller: Callable | None = None, surrogate: int | None = None):
        """A model of the cell's architecture trained on any data, stored as victims are; see Lab.fit."""
        return self._fitted(cell, data, controller, surrogate)[0]

    def _fit_learning(self, cell: Cell, data: Dataset, controller: Callable) -> tuple[Classifier, dict]:
        """See Lab.fit_learning."""
        return self._fitted(cell, data, controller, None)

    def _fitted(self, cell: Cell, data: Dataset, controller: Callable | None, surrogate: int | None):
        """(model, what its training learned beside it)."""
        seed, defence = cell.seed, cell.defence
        if surrogate is not None:
            seed, defence = SURROGATES + cell.seed * MOST_SURROGATES + surrogate, _of_surrogate(defence)
        what = run_of(cell.model, defence, cell.recipe, cell.dataset, data, seed)
        built = None
        if controller is not None and (built := controller(defence_of(defence, seed))) is not None:
            what |= {"attack": cell.attack, "budget": cell.budget}
        report = partial(self.report, cell.model)
        if getattr(built, "witness", None) is not None:  # what it saw is not stored with the weights
            key, recipe = stream(jax.random.key(seed), "fit"), build("recipe", cell.recipe)
            return built.fit(key, fresh(what, data), data, recipe, report=report)[0], {}
        directory = self.directory / name_of(what)
        return train(what, data, directory, report, defence=built), learned(directory)

    def _notes(self, cell: Cell, data: Dataset) -> dict[str, float]:
        """What the training of the cell's own victim on these data said of itself; nothing where there was none."""
        what = run_of(cell.model, cell.defence, cell.recipe, cell.dataset, data, cell.seed)
        path = self.directory / name_of(what) / files.MODEL / files.DESCRIPTION
        return files.read_description(path).get("curve", {}).get("notes", {}) if path.exists() else {}

    def _fit_shadows(self, cell: Cell, data: Dataset, rows: list[np.ndarray]) -> tuple[Classifier, ...]:
        """Models trained on rows of the data, the same for all seeds; those that are missing as one stack where the
        platform gains from it.
        """
        parts = [data.rows(own) for own in rows]
        defence = _of_shadows(cell.defence)
        runs = [
            run_of(cell.model, defence, cell.recipe, cell.dataset, part, SHADOWS + i) for i, part in enumerate(parts)
        ]
        report = partial(self.report, cell.model)
        with suppress(UserError):  # what is wrong with one of them is said when its turn comes
            train_together(runs, data, self.directory, report, subsets=rows)
        return tuple(
            train(what, part, self.directory / name_of(what), report) for what, part in zip(runs, parts, strict=True)
        )

    def _protected(self, model_defence: str, *what) -> Classifier:
        *_, dataset, seed = what
        return protect(self.model(*what), model_defence, self.dataset(dataset, "train", None), seed)

    def _prepared(self, monitor: str, model_defence: str, *what) -> Monitor:
        *_, dataset, seed = what
        return watching(self._served(model_defence, *what), monitor, self.dataset(dataset, "train", None), seed)

    def _recorded(self, attack: str, budget: str, split: str, examples: int | None, model_defence: str, *what):
        *_, dataset, seed = what
        data, model = self.dataset(dataset, split, examples), self._served(model_defence, *what)
        return monitoring.record(jax.random.key(seed), model, data, build("attack", attack), build("budget", budget))

    def _served(self, model_defence: str, *what) -> Classifier:
        return self.protected(model_defence, *what) if model_defence else self.model(*what)

    def _model(self, model: str, defence: str, recipe: str, dataset: str, seed: int) -> Classifier:
        key = model, defence, recipe, dataset, seed
        if kind_of_model(model) != "model":
            loaded, description = load_trained(model)
            self.trainings[key] = _training(description)
            return loaded
        data = self.dataset(dataset, "train", None)
        seeds = self.expected.pop((model, defence, recipe, dataset), [])
        if seed in seeds:
            runs = [run_of(model, defence, recipe, dataset, data, own) for own in seeds]
            with suppress(UserError):  # what is wrong with one of them is said when its turn comes
                train_together(runs, data, self.directory, lambda progress: self.report(model, progress))
        what = run_of(model, defence, recipe, dataset, data, seed)
        directory = self.directory / name_of(what)
        trained = train(what, data, directory, lambda progress: self.report(model, progress))
        self.trainings[key] = _training(files.read_description(directory / files.MODEL / files.DESCRIPTION))
        return trained


def _of_surrogate(defence: str) -> str:
    """What an attacker trains his own models with: the victim's training defence, unless it names another one."""
    return canonical("training", entry("training", parse(defence).name).facts.get("surrogate", defence))


def _of_shadows(defence: str) -> str:
    """What models beside a victim are trained with: its own defence, but that a mark is its owner's alone."""
    return _of_surrogate(defence) if isinstance(build("training", defence), Mark) else defence


def _trained_for(cell: Cell) -> tuple:
    return cell.model, cell.defence, cell.recipe, cell.dataset, cell.seed


def _training(description: dict) -> dict | None:
    training = description.get("training")
    if not isinstance(training, dict) or "step_s" not in training:
        return None
    return training | {key: description[key] for key in ("curve", "flags") if description.get(key)}
