"""What a training looked like: an entry an epoch, of the training images and of those that were held out.

Robust overfitting shows as robust accuracy that falls while training accuracy rises (Rice et al., ICML 2020,
arXiv:2002.11569); catastrophic overfitting of cheap attacks as a sudden fall to nothing (Wong et al., ICLR 2020,
arXiv:2001.03994).
Shapes: E epochs, H images held out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.drive import attack_batch
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import by_slices
from robustbench_jax.recipes import Recipe
from robustbench_jax.types import Classifier, Dataset, record

JUDGED = ("clean", "robust")


@record
class Trace:
    """The curve while it grows, float32 [E] each: `loss` and `accuracy` are means over the steps that an epoch has
    had; `clean` and `robust` are NaN until it is over.
    """

    loss: jax.Array
    accuracy: jax.Array
    clean: jax.Array
    robust: jax.Array

    @classmethod
    def of(cls, epochs: int) -> "Trace":
        zero, unknown = jnp.zeros(epochs), jnp.full(epochs, jnp.nan)
        return cls(zero, zero, unknown, unknown)

    def trained(self, epoch: jax.Array, loss: jax.Array, accuracy: jax.Array, share: float) -> "Trace":
        """One step, a `share` of its epoch, is added."""
        return self.replace(
            loss=self.loss.at[epoch].add(share * loss), accuracy=self.accuracy.at[epoch].add(share * accuracy)
        )

    def judged(self, epoch: int, clean: float, robust: float) -> "Trace":
        return self.replace(clean=self.clean.at[epoch].set(clean), robust=self.robust.at[epoch].set(robust))


@dataclass(frozen=True)
class Progress:
    """What a fit reports every few steps: loss and accuracy on the (perturbed) batch of that step.

    clean, robust: accuracy on the images held out after the last whole epoch, None where that is not known. warning:
    what the user should know, said once.
    """

    step: int
    steps: int
    loss: float
    accuracy: float
    clean: float | None = None
    robust: float | None = None
    warning: str = ""


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Curve:
    """An entry an epoch. loss, accuracy: means over the training batches as the defence made them; clean, robust: of
    the images held out, without and with the attack that the defence watches, None where there are none.

    kept: the epoch whose weights were returned, from 1. held: how many images were held out. steps: how many the call
    that returned this took itself, the others being an earlier one's, which was cut short. constant: the accuracy of a
    model that always gives one answer. notes: what else a training says of itself, in numbers by name. learned: what a
    training defence learned beside the weights, arrays by name; no part of the description.
    """

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    clean: tuple[float, ...] | None
    robust: tuple[float, ...] | None
    kept: int
    held: int = 0
    steps: int = 0
    constant: float = 0.0
    notes: dict[str, float] = field(default_factory=dict)
    learned: dict[str, jax.Array] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def read(cls, trace: Trace, keep: str, held: int, steps: int, constant: float = 0.0) -> "Curve":
        columns = {name: tuple(np.asarray(values).tolist()) for name, values in vars(trace).items()}
        known = {name: None if all(map(math.isnan, v)) and name in JUDGED else v for name, v in columns.items()}
        kept = best(trace) + 1 if keep == "best" else len(columns["loss"])
        return cls(**known, kept=kept, held=held, steps=steps, constant=constant)

    @property
    def flags(self) -> tuple[str, ...]:
        """What casts doubt on the training, a line each."""
        epoch = collapse(self.accuracy, self.clean or (), self.robust or (), self.held, self.constant)
        return () if epoch is None else (collapsed(self.robust, epoch),)

    def description(self) -> dict[str, Any]:
        """As a model's description has it: numbers rounded to six places, what is not known left out."""
        columns = {name: getattr(self, name) for name in ("loss", "accuracy", "clean", "robust")}
        rounded = {name: [round(v, 6) for v in values] for name, values in columns.items() if values is not None}
        return rounded | {"kept": self.kept, "held": self.held} | ({"notes": self.notes} if self.notes else {})


def best(trace: Trace) -> int:
    """The first epoch, from 0, with the highest robust accuracy where an attack is watched, else clean accuracy."""
    robust = np.asarray(trace.robust)
    return int(np.nanargmax(np.asarray(trace.clean) if np.isnan(robust).all() else robust))


def validate(
    key: jax.Array, model: Classifier, held: Dataset, watched: tuple | None, width: int
) -> tuple[float, float]:
    """Clean and robust accuracy on the images held out; robust is NaN where no attack is watched. The key is consumed.

    watched: (attack, budget); the first restart of each of the attack's stages is used. width: images in one batch.
    Raises UserError where logits are not finite.
    """
    right = classify(model, held.x) == held.y
    if watched is None:
        return float(right.mean()), math.nan
    attack, budget = watched
    rows, robust = [as_unit(held.x), held.y, np.arange(len(held))], right.copy()
    for stage in attack.stages(budget):

        def attacked(x, y, ids, stage=stage):
            return attack_batch(key, stage, model, budget, x, y, ids)

        robust &= classify(model, by_slices(attacked, rows, width)) == held.y
    return float(right.mean()), float(robust.mean())


def constant_answer(labels: np.ndarray) -> float:
    """The accuracy of a model that always answers with the most frequent of labels [N]; no attack lowers it."""
    return float(np.bincount(labels).max() / len(labels))


def collapse(accuracy: tuple, clean: tuple, robust: tuple, held: int, constant: float = 0.0) -> int | None:
    """The first epoch, from 0, at which robust accuracy is below half of its best so far, by more than chance makes
    it (two standard errors of the best), although training accuracy has risen since; None where there is none.

    constant: see `constant_answer`. Epochs whose clean accuracy is not above it by more than chance do not count: what
    has learnt nothing yet is robust for nothing.
    """
    top = None
    for epoch, now in enumerate(robust):
        if top is not None:
            most = robust[top]
            if now < most / 2 and most - now > 2 * _error(most, held) and accuracy[epoch] > accuracy[top]:
                return epoch
        learnt = clean[epoch] > constant + 2 * _error(constant, held)
        top = epoch if learnt and (top is None or now > robust[top]) else top
    return None


def _error(share: float, held: int) -> float:
    return math.sqrt(max(share * (1 - share), 0.0) / held)


def collapsed(robust: tuple, epoch: int) -> str:
    top = int(np.argmax(robust[: epoch + 1]))
    return (
        f"catastrophic overfitting: robust accuracy on held-out images fell from {robust[top]:.3f} in epoch {top + 1} "
        f"to {robust[epoch]:.3f} in epoch {epoch + 1}, while training accuracy rose"
    )


def progress(step: int, total: int, measured, traces: list[Trace], recipe: Recipe, labels: np.ndarray) -> Progress:
    """Means over the models of a stack; labels [N]: what they are trained on."""
    loss, accuracy = (float(np.mean(value)) for value in measured)
    epoch = (step + 1) // (total // recipe.epochs) - 1
    if not recipe.holdout or epoch < 0:
        return Progress(step + 1, total, loss, accuracy)
    clean, robust = (float(np.mean([getattr(t, name)[epoch] for t in traces])) for name in ("clean", "robust"))
    ends = (step + 1) % (total // recipe.epochs) == 0
    constant = constant_answer(labels)
    said = [warning(trace, epoch, recipe.holdout, constant) for trace in traces] if ends else []
    return Progress(step + 1, total, loss, accuracy, clean, None if np.isnan(robust) else robust, max(said, default=""))


def warning(trace: Trace, epoch: int, held: int, constant: float) -> str:
    """What there is to say at the end of this epoch; nothing if it was to be said before."""
    columns = (trace.accuracy, trace.clean, trace.robust)
    accuracy, clean, robust = (tuple(np.asarray(values)[: epoch + 1].tolist()) for values in columns)
    return collapsed(robust, epoch) if collapse(accuracy, clean, robust, held, constant) == epoch else ""
