"""pate(public, teachers): a student of public images, with labels that teachers of private ones vote for in noise.

References: Papernot et al., ICLR 2017, arXiv:1610.05755; Confident-GNMax: ICLR 2018, arXiv:1802.08908. Each training
image is seen by one teacher, chosen by its pixels, whose training depends on its own images alone, as those of
`partitioned` do: an image more or less changes one vote. A public image is answered where the largest count, with noise
of sigma1, is above the threshold; the answer is the class with the largest count with noise of sigma2, all in votes.
The student is trained, with the recipe, on answered images alone.
Departs from the papers: the student learns from the answered images with their labels, not from the others.
Shapes: Q public images, M teachers, C classes.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from robustbench_jax.defences.training.partitioned import fit_ensemble
from robustbench_jax.defences.training.standard import Standard
from robustbench_jax.keys import generator, stream
from robustbench_jax.models.ensemble import Ensemble
from robustbench_jax.models.features import logits_of
from robustbench_jax.ops import votes as accounting
from robustbench_jax.ops.accounting import Guarantee
from robustbench_jax.ops.partitions import parts
from robustbench_jax.ops.smooth_sensitivity import told_epsilon
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.training import Run, Trained, TrainingDefence, fit_with_curve
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@register("training", "pate", paper="papernot2018", parts={"public": "dataset"})
@record
class PATE(TrainingDefence):
    """public: whose first `queries` training images are asked about, and of which no label is used. answers: after so
    many nothing more is answered. steps: of each teacher. delta: of the promise, whose epsilon follows from the rest.
    """

    public: Any
    teachers: int = static(default=100)
    queries: int = static(default=1000)
    answers: int = static(default=500)
    threshold: float = 60.0
    sigma1: float = 60.0
    sigma2: float = 20.0
    delta: float = 1e-5
    steps: int = static(default=200)

    def __post_init__(self):
        given = {name: getattr(self, name) for name in ("teachers", "queries", "answers", "sigma1", "sigma2", "delta")}
        require_positive("pate", **given, steps=self.steps)
        if self.answers > self.queries:
            raise UserError(f"pate: answers = {self.answers} must be at most queries = {self.queries}")
        for name, value, limit in (("threshold", self.threshold, self.teachers), ("delta", self.delta, 1)):
            if isinstance(value, float) and not 0 <= value < limit:
                raise UserError(f"pate: {name} = {value} must be at least 0 and below {limit}")

    def guarantee(self, recipe: Recipe, images: int) -> Guarantee:
        """Whatever the votes are, for images that are added or removed; of public ones it promises nothing."""
        noise = float(self.sigma1), float(self.sigma2)
        return accounting.guarantee(*noise, self.queries, self.answers, float(self.delta))

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """A run that was killed begins anew with its teachers. Raises UserError where public images are private ones
        as well, and where too few are answered to fill a batch.
        """
        asked = self._asked(data, recipe)
        rows = parts(data.x, data.y, self.teachers, 1)
        params, _ = fit_ensemble("pate", stream(key, "teachers"), model, data, recipe, rows, self.steps, run.report)
        votes = logits_of(Classifier(Ensemble(model.net, self.teachers), params), asked.x)
        answered, said = aggregated(stream(key, "noise"), votes, self)
        if answered.sum() < recipe.batch_size:
            raise UserError(
                f"pate: {answered.sum()} of {len(asked)} queries are answered, batch_size = {recipe.batch_size}; "
                f"lower threshold = {float(self.threshold):g}, or the batch size"
            )
        labelled = Dataset(asked.x[answered], said[answered].astype(np.int32), data.classes, "answered")
        student, curve = fit_with_curve(stream(key, "student"), model, labelled, recipe, defence=Standard(), run=run)
        return student, dataclasses.replace(curve, notes=self._notes(stream(key, "told"), votes, answered, said, asked))

    def _asked(self, data: Dataset, recipe: Recipe) -> Dataset:
        public = self.public.load("train", None).take(self.queries)
        if public.x.shape[1:] != data.x.shape[1:]:
            shapes = f"{list(public.x.shape[1:])}, the private ones {list(data.x.shape[1:])}"
            raise UserError(f"pate: public images have shape {shapes}")
        private = {image.tobytes() for image in data.x}
        both = sum(image.tobytes() in private for image in public.x)
        if both:
            raise UserError(f"pate: {both} of {len(public)} public images are training images too; see part(...)")
        if recipe.batch_size > self.answers:
            raise UserError(f"pate: batch_size = {recipe.batch_size}: at most {self.answers} images will be answered")
        return public

    def _notes(self, key, votes: np.ndarray, answered: np.ndarray, said: np.ndarray, asked: Dataset) -> dict:
        """Of the queries up to the last answer, where there is one too many."""
        seen = len(answered) if answered.sum() < self.answers else int(np.flatnonzero(answered)[-1]) + 1
        noise = tuple(float(it) for it in (self.threshold, self.sigma1, self.sigma2, self.delta))
        limits = self.queries, self.answers
        told = told_epsilon(generator(key), votes[:seen], answered[:seen], limits, *noise)
        return {
            "epsilon_data_dependent": accounting.dependent_epsilon(votes[:seen], answered[:seen], *noise),
            "answered": int(answered.sum()),
            "answers_right": float(np.mean(said[answered] == asked.y[answered])),
        } | ({} if told is None else {"epsilon_data_dependent_told": told})


def aggregated(key: jax.Array, votes: np.ndarray, pate: PATE) -> tuple[np.ndarray, np.ndarray]:
    """(answered bool [Q], said int [Q]) of votes [Q, C]; no more than `pate.answers` are answered, the first ones."""
    looks = np.asarray(jax.random.normal(stream(key, "looks"), (len(votes),)), float) * float(pate.sigma1)
    noise = np.asarray(jax.random.normal(stream(key, "answers"), votes.shape), float) * float(pate.sigma2)
    answered = votes.max(-1) + looks >= float(pate.threshold)
    answered &= np.cumsum(answered) <= pate.answers
    return answered, (votes + noise).argmax(-1)
