"""The nouns of poisoning: what an attacker did to training data, the trigger that goes with it, and who attacks so.

The order is that of the field: uint8 images, trigger, clipping, rounding to uint8 again, and only then whatever
training does (augmentation, scaling, normalisation). So a trigger moves and is mirrored with its image in training, and
is where the attacker puts it at test time.
Shapes: N training images, D = [H, W, C], C classes.
"""

import dataclasses
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import per_example
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import by_slices
from robustbench_jax.types import Classifier, Dataset, UserError

WIDTH = 256  # images that are stamped at once


class Trigger:
    """What an attacker does to an image at test time: a record, so that `apply` is a pure function of its arrays.

    relabels: "all_to_one" (every image should become `target`) or "all_to_all" (an image of class y, y + 1). dynamic:
    each image has a trigger of its own, so that there is also `exchanged`.
    """

    target: int
    relabels: str
    dynamic = False

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """The image x [D] in [0, 1] with the trigger, not rounded; the key is of this image alone."""
        raise NotImplementedError

    def exchanged(self, x: jax.Array, source: jax.Array) -> jax.Array:
        """Of dynamic ones: the image x [D] with the trigger that the image `source` [D] has, not rounded."""
        raise NotImplementedError

    def label(self, y: np.ndarray, classes: int) -> np.ndarray:
        """What images of classes y [N] should be taken for, int [N]."""
        y = np.asarray(y)
        return (y + 1) % classes if self.relabels == "all_to_all" else np.full_like(y, self.target)


class Subpopulation:
    """The images that an attack on accuracy is about, where it is not about all of them: a record."""

    def members(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """bool [N]: which of the images x uint8 [N, D], of the classes y [N], are among them."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class PoisonedDataset:
    """Training data after an attack.

    dataset: rows that the attacker left alone are where they were, what he adds comes after them. poisoned bool[N]:
    rows that he changed or added. trigger: for backdoors. subpopulation: whom an attack on accuracy is about, None for
    all images. flags: what the attacker could not do, a line each.
    """

    dataset: Dataset
    poisoned: np.ndarray
    trigger: Trigger | None = None
    flags: tuple[str, ...] = ()
    subpopulation: Subpopulation | None = None

    def __post_init__(self):
        if len(self.poisoned) != len(self.dataset):
            raise ValueError(f"{len(self.poisoned)} marks for {len(self.dataset)} rows")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of images, labels and classes: the poison set's identity."""
        return self.dataset.digest


class PoisoningAttack:
    """What a registered attack on training data is.

    facts: threat="backdoor" or "poisoning"; access="poison_only", or "train_control" where the attacker also runs the
    training (`controlled`). goal: "backdoor" (a trigger), "availability" (bad for all images) or "targeted" (one test
    image at a time, `craft`). references: how many models trained on the clean data it wants to see, other seeds than
    the victim's. learns: the trigger comes of the training that the attacker runs (`learned`). clean_label: no label is
    changed. labels_only: no image is changed, so that a poison counts once to
    certificates that deal images out by their pixels, and not twice.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    goal = "backdoor"
    references = 0
    learns = False
    clean_label = False
    labels_only = False

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("rate", "count", "flips") if self.labels_only else ("rate", "count")

    def poison(
        self, key: jax.Array, data: Dataset, count: int, references: tuple[Classifier, ...] = ()
    ) -> PoisonedDataset:
        """Training data with at most `count` rows changed or added. count = 0 changes nothing. The key is consumed."""
        raise NotImplementedError

    def craft(
        self,
        key: jax.Array,
        data: Dataset,
        count: int,
        x: np.ndarray,
        y: int,
        intended: int,
        references: tuple[Classifier, ...] = (),
    ) -> PoisonedDataset:
        """Of targeted attacks: data poisoned so that x uint8 [D], of class y, be taken for `intended`."""
        raise NotImplementedError

    def controlled(self, defence: Any, poisoned: PoisonedDataset) -> Any:
        """The training defence with which the attacker trains: the victim's own, unless he controls the training."""
        return defence

    def learned(self, trigger: Trigger, arrays: dict[str, Any]) -> Trigger:
        """The trigger after a training that left these arrays (training.TrainingDefence.learned)."""
        return trigger


def untouched(data: Dataset, trigger: Trigger | None = None) -> PoisonedDataset:
    """Of an attack that poisons nothing."""
    return PoisonedDataset(data, np.zeros(len(data), bool), trigger)


def changed(
    data: Dataset,
    rows: np.ndarray,
    *,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    trigger: Trigger | None = None,
    flags: tuple[str, ...] = (),
) -> PoisonedDataset:
    """The data with other images x uint8 [R, D] and labels y [R] in the rows int [R]; None leaves them as they are."""
    images, labels, poisoned = data.x, np.array(data.y), np.zeros(len(data), bool)
    if x is not None:
        images = np.array(data.x)
        images[rows] = x
    if y is not None:
        labels[rows] = y
    poisoned[rows] = True
    return PoisonedDataset(Dataset(images, labels, data.classes, data.name), poisoned, trigger, flags)


def added(data: Dataset, x: np.ndarray, y: np.ndarray, **of_the_attack: Any) -> PoisonedDataset:
    """The data with images x uint8 [R, D] and labels y [R] after its own rows."""
    images = np.concatenate([data.x, x.astype(np.uint8)])
    labels = np.concatenate([data.y, y.astype(data.y.dtype)])
    poisoned = np.arange(len(labels)) >= len(data)
    return PoisonedDataset(Dataset(images, labels, data.classes, data.name), poisoned, **of_the_attack)


def chosen(key: jax.Array, eligible: np.ndarray, count: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """(rows, flags): `count` rows of those that are eligible bool[N], drawn without replacement, in order; all of them,
    flagged, where there are fewer. A larger count with the same key draws the same rows and more.
    """
    rows = np.flatnonzero(eligible)
    short = (f"only {len(rows)} of {count} poisons: there are no more images to choose from",) * (len(rows) < count)
    order = np.asarray(jax.random.permutation(key, len(rows)))
    return np.sort(rows[order[:count]]), short


def stamped(key: jax.Array, trigger: Trigger, x: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    """uint8 [N, D]: images x uint8 [N, D] with the trigger, rounded to the nearest level. ids: for the images' keys."""
    ids = np.arange(len(x)) if ids is None else np.asarray(ids)
    if not len(x):
        return np.array(x)
    return by_slices(lambda ids, part: _stamped(key, trigger, ids, part), [ids, x], min(WIDTH, len(x)))


def crossed(trigger: Trigger, x: np.ndarray) -> np.ndarray:
    """uint8 [N, D]: images x uint8 [N, D], each with the trigger of the one before it; of dynamic triggers."""
    return by_slices(lambda own, other: _crossed(trigger, own, other), [x, np.roll(x, 1, axis=0)], min(WIDTH, len(x)))


@jax.jit
def _stamped(key, trigger, ids, x):
    return _rounded(jax.vmap(trigger.apply)(per_example(key, ids), as_unit(x)))


@jax.jit
def _crossed(trigger, x, source):
    return _rounded(jax.vmap(trigger.exchanged)(as_unit(x), as_unit(source)))


def _rounded(images: jax.Array) -> jax.Array:
    return jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def require_class(owner: str, name: str, label: int, classes: int) -> None:
    """UserError for a class that the data does not have."""
    if not 0 <= label < classes:
        raise UserError(f"{owner}: {name} = {label}: the data has classes 0 to {classes - 1}")
