"""Victims on disk: what is trained, once, into a directory whose name is a hash of all that determines the weights.

A training that was killed goes on from its last checkpoint. Victims that differ only in their seed are trained as one
stack where the platform gains from it, each stored as if it were alone.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_safetensors

from robustbench_jax.bench.clock import Clock
from robustbench_jax.keys import stream
from robustbench_jax.learning_curve import Curve, Progress
from robustbench_jax.models import build_model, files
from robustbench_jax.ownership import Mark
from robustbench_jax.registry import build
from robustbench_jax.stacks import fit_many_with_curves, gains
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError
from robustbench_jax.whole_files import write_whole

CHECKPOINTS, RUN, LEARNED = "checkpoints", "run.json", "learned.safetensors"


def run_of(model: str, defence: str, recipe: str, dataset: str, data: Dataset, seed: int) -> dict:
    """Everything that determines the weights of a victim."""
    return {
        "model": model,
        "defence": defence,
        "recipe": recipe,
        "dataset": dataset,
        "data": data.digest,
        "seed": seed,
    }


def name_of(what: dict | list[dict]) -> str:
    """Of the directory."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def defence_of(text: str, seed: int) -> TrainingDefence:
    """The training defence; a mark has the seed for its owner's secret."""
    built = build("training", text)
    return built.replace(secret=seed) if isinstance(built, Mark) else built


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
    recipe, defence = build("recipe", what["recipe"]), defence or defence_of(what["defence"], what["seed"])
    model = fresh(what, data)  # before anything is written: it may be refused
    _claim(directory, what)
    with Clock() as clock:
        classifier, curve = defence.fit(
            stream(jax.random.key(what["seed"]), "fit"),
            model,
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
    left = [i for i, what in enumerate(runs) if not (directory / name_of(what)).exists()]
    subsets = None if subsets is None else np.stack([subsets[i] for i in left]) if left else None
    runs = [runs[i] for i in left]
    if len(runs) < 2:
        return
    recipe, defence = build("recipe", runs[0]["recipe"]), build("training", runs[0]["defence"])
    models = [fresh(what, data) for what in runs]
    if not gains(defence, models[0]):
        return
    keys = jnp.stack([stream(jax.random.key(what["seed"]), "fit") for what in runs])
    stack = models[0].replace(params=jax.tree.map(lambda *each: jnp.stack(each), *(m.params for m in models)))
    place = directory / f"stack-{name_of(runs)}"
    try:
        with Clock() as clock:
            fitted, curves = fit_many_with_curves(
                keys, stack, data, recipe, defence=defence, subsets=subsets,
                directory=place / CHECKPOINTS, report=report,
            )  # fmt: skip
            jax.block_until_ready(fitted.params)
    except UserError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    for i, (what, curve) in enumerate(zip(runs, curves, strict=True)):
        own = fitted.replace(params={name: value[i] for name, value in fitted.params.items()})
        _claim(directory / name_of(what), what)
        _store(directory / name_of(what), what, data, own, curve, clock, len(runs))
    shutil.rmtree(place, ignore_errors=True)


def fresh(what: dict, data: Dataset) -> Classifier:
    """The model that `what` names (model, seed), for these images, before any training."""
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


def learned(directory: Path) -> dict[str, np.ndarray]:
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
        found = json.loads(note.read_text()) if note.exists() else None
    except (ValueError, OSError):
        raise UserError(f"{note} cannot be read; delete {directory} to train anew") from None
    if found is not None:
        return _require_same(found, what, directory)
    write_whole(note, lambda file: file.write(json.dumps(what, indent=1).encode() + b"\n"))


def _require_same(found: dict, what: dict, directory: Path) -> None:
    for name, value in what.items():
        if found.get(name) != value:
            raise UserError(
                f"{directory} holds another run: {name} = {found.get(name)!r}, not {value!r}; choose another --out"
            )
