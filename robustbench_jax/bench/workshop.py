"""The workshop: makes or loads what cells name, each thing once.

A victim that is trained for a cell is stored under the hash of everything that determines its weights, so all cells
that share it, now or later, train it once; a training that was killed goes on from its last checkpoint. Victims that
differ only in their seed are trained as one stack where the platform gains from it, each stored as if it were alone.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_safetensors

from robustbench_jax.bench.cells import Cell, kind_of_model
from robustbench_jax.bench.clock import Clock
from robustbench_jax.data import load_dataset
from robustbench_jax.keys import stream
from robustbench_jax.learning_curve import Curve, Progress
from robustbench_jax.models import build_model, files, zoo
from robustbench_jax.ownership import Mark
from robustbench_jax.registry import build, canonical, entry, parse
from robustbench_jax.stacks import fit_many_with_curves, gains
from robustbench_jax.threats import monitoring
from robustbench_jax.threats.lab import Lab
from robustbench_jax.traffic import Monitor
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError
from robustbench_jax.whole_files import write_whole

CHECKPOINTS, RUN, LEARNED = "checkpoints", "run.json", "learned.safetensors"
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
        private = _defence(cell.defence, cell.seed)
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
            fresh=partial(_fresh, {"model": cell.model, "seed": cell.seed}, data),
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
        what = _run(cell.model, defence, cell.recipe, cell.dataset, data, seed)
        built = None
        if controller is not None and (built := controller(_defence(defence, seed))) is not None:
            what |= {"attack": cell.attack, "budget": cell.budget}
        report = partial(self.report, cell.model)
        if getattr(built, "witness", None) is not None:  # what it saw is not stored with the weights
            key, recipe = stream(jax.random.key(seed), "fit"), build("recipe", cell.recipe)
            return built.fit(key, _fresh(what, data), data, recipe, report=report)[0], {}
        directory = self.directory / _name(what)
        return train(what, data, directory, report, defence=built), _learned(directory)

    def _notes(self, cell: Cell, data: Dataset) -> dict[str, float]:
        """What the training of the cell's own victim on these data said of itself; nothing where there was none."""
        what = _run(cell.model, cell.defence, cell.recipe, cell.dataset, data, cell.seed)
        path = self.directory / _name(what) / files.MODEL / files.DESCRIPTION
        return files.read_description(path).get("curve", {}).get("notes", {}) if path.exists() else {}

    def _fit_shadows(self, cell: Cell, data: Dataset, rows: list[np.ndarray]) -> tuple[Classifier, ...]:
        """Models trained on rows of the data, the same for all seeds; those that are missing as one stack where the
        platform gains from it.
        """
        parts = [data.rows(own) for own in rows]
        defence = _of_shadows(cell.defence)
        runs = [_run(cell.model, defence, cell.recipe, cell.dataset, part, SHADOWS + i) for i, part in enumerate(parts)]
        report = partial(self.report, cell.model)
        with suppress(UserError):  # what is wrong with one of them is said when its turn comes
            train_together(runs, data, self.directory, report, subsets=rows)
        return tuple(
            train(what, part, self.directory / _name(what), report) for what, part in zip(runs, parts, strict=True)
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
            runs = [_run(model, defence, recipe, dataset, data, own) for own in seeds]
            with suppress(UserError):  # what is wrong with one of them is said when its turn comes
                train_together(runs, data, self.directory, lambda progress: self.report(model, progress))
        what = _run(model, defence, recipe, dataset, data, seed)
        directory = self.directory / _name(what)
        trained = train(what, data, directory, lambda progress: self.report(model, progress))
        self.trainings[key] = _training(files.read_description(directory / files.MODEL / files.DESCRIPTION))
        return trained


def _of_surrogate(defence: str) -> str:
    """What an attacker trains his own models with: the victim's training defence, unless it names another one."""
    return canonical("training", entry("training", parse(defence).name).facts.get("surrogate", defence))


def _of_shadows(defence: str) -> str:
    """What models beside a victim are trained with: its own defence, but that a mark is its owner's alone."""
    return _of_surrogate(defence) if isinstance(build("training", defence), Mark) else defence


def _defence(text: str, seed: int) -> TrainingDefence:
    """The training defence; a mark has the seed for its owner's secret."""
    built = build("training", text)
    return built.replace(secret=seed) if isinstance(built, Mark) else built


def _trained_for(cell: Cell) -> tuple:
    return cell.model, cell.defence, cell.recipe, cell.dataset, cell.seed


def _training(description: dict) -> dict | None:
    training = description.get("training")
    if not isinstance(training, dict) or "step_s" not in training:
        return None
    return training | {key: description[key] for key in ("curve", "flags") if description.get(key)}


def _run(model: str, defence: str, recipe: str, dataset: str, data: Dataset, seed: int) -> dict:
    """Everything that determines the weights of a victim."""
    return {
        "model": model,
        "defence": defence,
        "recipe": recipe,
        "dataset": dataset,
        "data": data.digest,
        "seed": seed,
    }


def _name(what: dict | list[dict]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def train(
    what: dict,
    data: Dataset,
    directory: Path,
    report: Callable[[Progress], None],
    *,
    defence: TrainingDefence | None = None,
) -> Classifier:
    """The model that `what` determines (model, defence, recipe, dataset, seed), from `directory` or trained into it.

    defence: what is built already, in the place of what the defence in `what` names. Raises UserError where the
    directory holds another model or another run.
    """
    if (directory / files.MODEL).is_dir():
        classifier, description = files.load(directory / files.MODEL)
        _require_same(description["run"], what, directory)
        return classifier
    _claim(directory, what)
    recipe, defence = build("recipe", what["recipe"]), defence or _defence(what["defence"], what["seed"])
    with Clock() as clock:
        classifier, curve = defence.fit(
            stream(jax.random.key(what["seed"]), "fit"),
            _fresh(what, data),
            data,
            recipe,
            directory=directory / CHECKPOINTS,
            report=report,
        )
        jax.block_until_ready(classifier.params)
    _store(directory, what, data, classifier, curve, clock)
    return classifier


def train_together(
    runs: list[dict],
    data: Dataset,
    directory: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    *,
    subsets: list[np.ndarray] | None = None,
) -> None:
    """Trains those of `runs`, which differ in their seed, that have not begun alone, as one stack; stores each of them
    in `directory` under its own name. Nothing happens where there is one only, or where a stack gains nothing.

    subsets: the rows of the data, as many for each, that each run is trained on; None for all.
    """
    left = [i for i, what in enumerate(runs) if not (directory / _name(what)).exists()]
    subsets = None if subsets is None else np.stack([subsets[i] for i in left]) if left else None
    runs = [runs[i] for i in left]
    if len(runs) < 2:
        return
    recipe, defence = build("recipe", runs[0]["recipe"]), build("training", runs[0]["defence"])
    models = [_fresh(what, data) for what in runs]
    if not gains(defence, models[0]):
        return
    keys = jnp.stack([stream(jax.random.key(what["seed"]), "fit") for what in runs])
    stack = models[0].replace(params=jax.tree.map(lambda *each: jnp.stack(each), *(m.params for m in models)))
    place = directory / f"stack-{_name(runs)}"
    try:
        with Clock() as clock:
            fitted, curves = fit_many_with_curves(
                keys, stack, data, recipe, defence=defence, subsets=subsets, at_once=True,
                directory=place / CHECKPOINTS, report=report,
            )  # fmt: skip
            jax.block_until_ready(fitted.params)
    except UserError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    for i, (what, curve) in enumerate(zip(runs, curves, strict=True)):
        own = fitted.replace(params={name: value[i] for name, value in fitted.params.items()})
        _claim(directory / _name(what), what)
        _store(directory / _name(what), what, data, own, curve, clock, len(runs))
    shutil.rmtree(place, ignore_errors=True)


def _fresh(what: dict, data: Dataset) -> Classifier:
    key = stream(jax.random.key(what["seed"]), "init")
    return build_model(what["model"], data.x.shape[1:], len(data.classes), key)


def _store(
    directory: Path, what: dict, data: Dataset, classifier: Classifier, curve: Curve, clock: Clock, together: int = 1
) -> None:
    """Writes model and description; checkpoints are no longer needed then."""
    more = {"run": what, "curve": curve.description(), "training": _timing(curve, clock, together)}
    more |= {"flags": list(curve.flags)} if curve.flags else {}
    description = files.describe(classifier, what["model"], data.x.shape[1:], len(data.classes), **more)
    if curve.learned:  # before the model: where that is whole, this is
        arrays = to_safetensors({name: np.asarray(value) for name, value in curve.learned.items()})
        write_whole(directory / LEARNED, lambda file: file.write(arrays))
    files.save(directory / files.MODEL, classifier, description)
    shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)


def _learned(directory: Path) -> dict[str, np.ndarray]:
    """What was learned beside the model in the directory; nothing, for most."""
    path = directory / LEARNED
    try:
        return load_file(path) if path.exists() else {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged: {error}; delete {directory} to train anew") from error


def _timing(curve: Curve, clock: Clock, together: int) -> dict[str, float | int]:
    """Of the run that ended the training: its steps, its seconds without compiling, validation and teachers included.
    together: how many models shared these seconds.
    """
    each = clock.run_s / max(curve.steps, 1) / together
    return {
        "steps": curve.steps,
        "together": together,
        "run_s": round(clock.run_s, 3),
        "compile_s": round(clock.compile_s, 3),
        "step_s": round(each, 6),
    }


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
