"""Teachers: models that others are distilled from, loaded or trained beforehand."""

from typing import Any

import jax

from robustbench_jax.training import Train, TrainingDefence
from robustbench_jax.types import Classifier, UserError


def taught(owner: str, source: Any, model: Classifier, shape: tuple[int, ...], defence: TrainingDefence, train: Train):
    """The teacher: `source`, a trained model to load, or for None the student's architecture trained with `defence`.

    shape: of the images. Raises UserError where the teacher does not take them or has other classes than the student.
    """
    if source is None:
        return train("teacher", model, defence)
    teacher = source.load()[0]
    if teacher.stochastic:
        raise UserError(f"{owner}: the teacher {source} is randomised; give a deterministic model")
    wanted, found = _classes(model, shape), _classes(teacher, shape)
    if wanted != found:
        raise UserError(f"{owner}: the teacher {source} has {found} classes for images {list(shape)}, not {wanted}")
    return teacher


def _classes(model: Classifier, shape: tuple[int, ...]) -> int | None:
    try:
        return jax.eval_shape(model, jax.ShapeDtypeStruct(shape, "float32")).shape[-1]
    except (TypeError, ValueError):
        return None
