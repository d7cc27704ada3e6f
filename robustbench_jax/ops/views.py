"""Views: what of a model an attack may see. A black-box view has exactly zero gradient.

Every call of a view is one query; the attack's State counts them, example by example, and a law test compares that
count with the calls that its step makes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.types import Classifier, record


@record
class Scores:
    """Logits without gradients."""

    model: Classifier

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(self.model(jax.lax.stop_gradient(x)))


@record
class Labels:
    """The predicted class alone, as a one-hot vector [C] without gradients."""

    model: Classifier

    def __call__(self, x: jax.Array) -> jax.Array:
        logits = self.model(jax.lax.stop_gradient(x))
        return jax.lax.stop_gradient(jax.nn.one_hot(jnp.argmax(logits), logits.shape[-1]))


@record
class Answering:
    """A model that may give no answer, as an attack on an image of class `y` meets it: logits [C].

    Giving no answer to an attacked image is as good as being right, so the logit of `y` is the larger of its own and
    that of no answer, and every attack and every loss knows what it has to lower.
    """

    model: Any
    y: jax.Array

    @property
    def stochastic(self) -> bool:
        return self.model.stochastic

    @property
    def net(self) -> Any:
        return self.model.net

    def keyed(self, key: jax.Array) -> "Answering":
        return self.replace(model=self.model.keyed(key))

    def __call__(self, x: jax.Array) -> jax.Array:
        logits = self.model(x)
        return logits[:-1].at[self.y].max(logits[-1])


def answering(model: Any, y: jax.Array) -> Any:
    """The model as it is asked about an attacked image of class y: itself, but for one that may give no answer."""
    return Answering(model, y) if getattr(model, "rejects", False) else model


VIEWS = {"gradients": lambda model: model, "scores": Scores, "labels": Labels, "none": Labels}


def view(model: Classifier, access: str) -> Classifier | Scores | Labels:
    """What an attack with this access gets: "gradients" (the model itself), "scores", "labels" or "none".

    An attack without access asks nothing of the model before it hands in its x_adv; a law test counts.
    """
    return VIEWS[access](model)
