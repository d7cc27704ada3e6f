"""bagged(models, draws): many models, each trained on few images drawn with replacement; the class that most vote for.

Reference: Jia, Cao & Gong, AAAI 2021, arXiv:2008.04495. A few poisons among many images are seldom drawn. What is drawn
depends on the key alone, never on the images; each model trains as one of `partitioned` does.
"""

from typing import Any

import jax
import numpy as np

from robustbench_jax.defences.training.partitioned import fit_ensemble
from robustbench_jax.keys import stream
from robustbench_jax.models.ensemble import Ensemble
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.training import Run, Trained, TrainingDefence
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static


@register("training", "bagged", paper="jia2021", surrogate="standard")
@record
class Bagged(TrainingDefence):
    """models: how many; draws: images that each is trained on; steps: of each. The recipe's epochs and holdout are not
    used.
    """

    models: int = static(default=200)
    draws: int = static(default=100)
    steps: int = static(default=200)

    def __post_init__(self):
        require_positive("bagged", models=self.models, draws=self.draws, steps=self.steps)

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """A run that was killed begins anew."""
        drawn: Any = jax.random.randint(stream(key, "bags"), (self.models, self.draws), 0, len(data))
        rows = list(np.asarray(drawn))
        params, curve = fit_ensemble("bagged", key, model, data, recipe, rows, self.steps, run.report)
        return Classifier(Ensemble(model.net, self.models, 1, self.draws, len(data)), params), curve
