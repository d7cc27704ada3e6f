"""The workshop: makes or loads what cells name, each thing once.

A victim that is trained for a cell is stored under the hash of everything that determines its weights, so all cells
that share it, now or later, train it once; a training that was killed goes on from its last checkpoint.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import jax

from robustbench_jax.bench.cells import Cell, kind_of_model
from robustbench_jax.bench.records import write_whole
from robustbench_jax.data import load_dataset
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model, files, zoo
from robustbench_jax.registry import build
from robustbench_jax.training import Progress, fit
from robustbench_jax.types import Classifier, Dataset, UserError

CHECKPOINTS, RUN = "checkpoints", "run.json"


def load_model(text: str) -> Classifier:
    """A trained model: a name in the zoo, or checkpoint("dir")."""
    return _load_trained(text)[0]


def protect(model: Classifier, model_defence: str, data: Dataset, seed: int = 0) -> Classifier:
    """What a model defence makes of a trained model; data: training images, for what it has to fit."""
    return build("model_defence", model_defence).protect(stream(jax.random.key(seed), "model defence"), model, data)


def _load_trained(text: str) -> tuple[Classifier, dict]:
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

    def victim(self, cell: Cell) -> Classifier:
        what = _trained_for(cell)
        return self.protected(cell.model_defence, *what) if cell.model_defence else self.model(*what)

    def training(self, cell: Cell) -> dict | None:
        """What training the cell's model took, as its description says: seconds, steps and seconds_per_step; None where
        it does not say.
        """
        what = _trained_for(cell)
        if what not in self.trainings:
            self.model(*what)
        return self.trainings[what]

    def _protected(self, model_defence: str, *what) -> Classifier:
        *_, dataset, seed = what
        return protect(self.model(*what), model_defence, self.dataset(dataset, "train", None), seed)

    def _model(self, model: str, defence: str, recipe: str, dataset: str, seed: int) -> Classifier:
        key = model, defence, recipe, dataset, seed
        if kind_of_model(model) != "model":
            loaded, description = _load_trained(model)
            self.trainings[key] = _cost(description)
            return loaded
        data = self.dataset(dataset, "train", None)
        what = {
            "model": model,
            "defence": defence,
            "recipe": recipe,
            "dataset": dataset,
            "data": data.digest,
            "seed": seed,
        }
        name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
        trained = train(what, data, self.directory / name, lambda progress: self.report(model, progress))
        description = json.loads((self.directory / name / files.MODEL / files.DESCRIPTION).read_text())
        self.trainings[key] = _cost(description)
        return trained


def _trained_for(cell: Cell) -> tuple:
    return cell.model, cell.defence, cell.recipe, cell.dataset, cell.seed


def _cost(description: dict) -> dict | None:
    training = description.get("training")
    return training if isinstance(training, dict) and "seconds_per_step" in training else None


def train(what: dict, data: Dataset, directory: Path, report: Callable[[Progress], None]) -> Classifier:
    """The model that `what` determines (model, defence, recipe, dataset, seed), from `directory` or trained into it.

    Raises UserError where the directory holds another model or another run.
    """
    if (directory / files.MODEL).is_dir():
        classifier, description = files.load(directory / files.MODEL)
        _require_same(description["run"], what, directory)
        return classifier
    _claim(directory, what)
    key = jax.random.key(what["seed"])
    shape, classes = data.x.shape[1:], len(data.classes)
    classifier = fit(
        stream(key, "fit"),
        build_model(what["model"], shape, classes, stream(key, "init")),
        data,
        build("recipe", what["recipe"]),
        defence=build("training", what["defence"]),
        directory=directory / CHECKPOINTS,
        report=report,
    )
    files.save(directory / files.MODEL, classifier, files.describe(classifier, what["model"], shape, classes, run=what))
    shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
    return classifier


def _claim(directory: Path, what: dict) -> None:
    """Notes in the directory which run its checkpoints belong to."""
    note = directory / RUN
    try:
        if note.exists():
            return _require_same(json.loads(note.read_text()), what, directory)
    except (ValueError, OSError):
        raise UserError(f"{note} cannot be read; delete {directory} to train anew") from None
    write_whole(note, lambda file: file.write(json.dumps(what, indent=1).encode() + b"\n"))


def _require_same(found: dict, what: dict, directory: Path) -> None:
    for name, value in what.items():
        if found.get(name) != value:
            raise UserError(
                f"{directory} holds another run: {name} = {found.get(name)!r}, not {value!r}; choose another --out"
            )
