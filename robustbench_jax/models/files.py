"""Classifiers on disk: a directory with the arrays (Orbax) and model.json, or one .safetensors file with its .json.

model.json is the description: architecture, input shape, number of classes, the SHA-256 of the arrays and what they
were trained on. It is written last, into a directory that is renamed when it is whole, so a directory with a
model.json is never half of a model.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as from_safetensors
from safetensors.numpy import load_file, save_file
from safetensors.numpy import save as to_safetensors

from robustbench_jax.models import build_model, ensemble, readout
from robustbench_jax.models.net import with_params
from robustbench_jax.types import Classifier, UserError

MODEL, DESCRIPTION, ARRAYS = "model", "model.json", "arrays"
PARTS = {"ensemble": (ensemble.Ensemble, ensemble.empty), "readout": (readout.Readout, readout.empty)}
REQUIRED = ("architecture", "shape", "classes", "weights")


def digest(params: dict[str, Any]) -> str:
    """SHA-256 over names, shapes, types and bytes of a model's arrays: the identity of its weights."""
    sha = hashlib.sha256()
    for name in sorted(params):
        value = np.asarray(params[name])
        sha.update(repr((name, value.shape, str(value.dtype))).encode() + np.ascontiguousarray(value).tobytes())
    return sha.hexdigest()


def describe(classifier: Classifier, architecture: str, shape: tuple[int, ...], classes: int, **more: Any) -> dict:
    """The description that goes beside the arrays."""
    return {
        "architecture": architecture,
        "shape": list(shape),
        "classes": classes,
        "weights": digest(classifier.params),
        **{name: classifier.net.description() for name, (net, _) in PARTS.items() if isinstance(classifier.net, net)},
        **more,
    }


def save(directory: str | Path, classifier: Classifier, description: dict) -> Path:
    """Writes a model directory; replaces one that is there only when the new one is whole. UserError on a full disk."""
    import orbax.checkpoint

    target = Path(directory).absolute()
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        with orbax.checkpoint.StandardCheckpointer() as writer:
            writer.save(partial / ARRAYS, {k: np.asarray(v) for k, v in classifier.params.items()})
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except (OSError, ValueError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"could not write the model to {directory}: {error}") from error
    return target


def load(directory: str | Path) -> tuple[Classifier, dict]:
    """The classifier and the description in a model directory, or in its folder `model` as `train` leaves it.

    Raises UserError where it is missing, foreign or damaged.
    """
    import orbax.checkpoint

    place = root(directory)
    description = read_description(place / DESCRIPTION)
    empty = _empty(description, place)
    try:
        with orbax.checkpoint.StandardCheckpointer() as reader:
            params = reader.restore(
                place / ARRAYS, {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in empty.params.items()}
            )
    except Exception as error:
        raise UserError(
            f"{directory} is damaged or does not fit {description['architecture']}: {str(error).splitlines()[0]}"
        ) from error
    return _checked(empty, params, description, str(directory)), description


def root(directory: str | Path) -> Path:
    """Where the description of a model directory lies. UserError for a directory that is not there."""
    place = Path(directory).absolute()
    if not place.is_dir():
        raise UserError(f"there is no checkpoint directory '{directory}'")
    return place / MODEL if (place / MODEL).is_dir() else place


def to_bytes(classifier: Classifier, description: dict) -> bytes:
    """Description and arrays as bytes: eight with the length of the description, it, and .safetensors.

    UserError for a model whose description does not say how to build it.
    """
    _require_whole(description, "the model")
    expected = _empty(description, Path("the model"))
    if _checked(expected, classifier.params, description, "the model").net != classifier.net:
        raise UserError(f"the model is not what its description, {description['architecture']}, would build")
    said = json.dumps(description).encode()
    return (
        len(said).to_bytes(8, "big") + said + to_safetensors({k: np.asarray(v) for k, v in classifier.params.items()})
    )


def from_bytes(data: bytes, source: str) -> tuple[Classifier, dict]:
    """What `to_bytes` made bytes of. UserError for anything else."""
    end = 8 + int.from_bytes(data[:8], "big")
    try:
        description, params = json.loads(data[8:end]), from_safetensors(data[end:])
    except (ValueError, SafetensorError) as error:
        raise UserError(f"{source} holds no model: {error}") from None
    _require_whole(description, source)
    return _checked(_empty(description, Path(source)), params, description, source), description


def save_file_pair(stem: Path, classifier: Classifier, description: dict) -> None:
    """stem.safetensors and stem.json: the form in which models ship."""
    save_file({k: np.asarray(v) for k, v in classifier.params.items()}, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(description, indent=1) + "\n")


def load_file_pair(stem: Path) -> tuple[Classifier, dict]:
    """The classifier and the description in stem.safetensors and stem.json."""
    description = read_description(stem.with_suffix(".json"))
    empty = _empty(description, stem)
    try:
        params = load_file(stem.with_suffix(".safetensors"))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{stem.with_suffix('.safetensors')}: {error}") from error
    return _checked(empty, params, description, str(stem)), description


def read_description(path: Path) -> dict:
    try:
        description = json.loads(path.read_text())
    except OSError:
        raise UserError(f"{path.parent} holds no model: {path.name} is missing") from None
    except ValueError:
        raise UserError(f"{path} is cut short or no JSON; write the model again") from None
    _require_whole(description, str(path))
    return description


def _require_whole(description: dict, source: str) -> None:
    if missing := [key for key in REQUIRED if key not in description]:
        raise UserError(f"{source} does not say {', '.join(missing)}")


def _empty(description: dict, source: Path) -> Classifier:
    """A model of the described architecture, whose arrays are shapes only."""
    made = {}

    def make():
        made["model"] = build_model(
            description["architecture"], tuple(description["shape"]), description["classes"], jax.random.key(0)
        )
        return made["model"].params

    try:
        shapes = jax.eval_shape(make)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    model = made["model"].replace(params=shapes)
    for name, (_, empty) in PARTS.items():
        model = empty(model, **description[name]) if name in description else model
    return model


def _checked(empty: Classifier, params: dict, description: dict, source: str) -> Classifier:
    classifier = with_params(empty, {k: jax.numpy.asarray(v) for k, v in params.items()}, source)
    if digest(classifier.params) != description["weights"]:
        raise UserError(f"{source} is damaged: its arrays do not have the SHA-256 that its description gives")
    return classifier
