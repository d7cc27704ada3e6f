"""Views: what of a model an attack may see. A black-box view has exactly zero gradient.

Every call of a view is one query; the attack's State counts them, example by example, and a law test compares that
count with the calls that its step makes.
"""

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


VIEWS = {"gradients": lambda model: model, "scores": Scores, "labels": Labels, "none": Labels}


def view(model: Classifier, access: str) -> Classifier | Scores | Labels:
    """What an attack with this access gets: "gradients" (the model itself), "scores", "labels" or "none".

    An attack without access asks nothing of the model before it hands in its x_adv; a law test counts.
    """
    return VIEWS[access](model)
