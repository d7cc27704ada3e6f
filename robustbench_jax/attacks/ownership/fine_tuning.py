"""fine_tune_all, fine_tune_last, retrain_all, retrain_last: the stolen model trained on, on the thief's images.

Reference: Adi et al., USENIX Security 2018, arXiv:1802.04633, section 5 (FTAL, FTLL, RTAL, RTLL): all layers or the
last one alone; to retrain is to begin with fresh weights in the last layer.
"""

import dataclasses
from typing import Any

import jax

from robustbench_jax.keys import stream
from robustbench_jax.ownership import Plain, Removal, Thief
from robustbench_jax.registry import register
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, UserError, record

HEAD = "head/"
RECIPE = "adamw(epochs=20, batch_size=64, learning_rate=1e-3)"
FACTS = {"threat": "ownership", "access": "weights", "paper": "adi2018", "parts": {"recipe": "recipe"}}


class Tuning(Removal):
    """last: whether the last layer alone is trained; fresh: whether it begins with fresh weights."""

    last, fresh = False, False

    def remove(self, key: jax.Array, thief: Thief) -> Classifier:
        model = thief.stolen
        if self.fresh:
            model = model.replace(params=model.params | head(thief.fresh(stream(key, "head"))))
        if not self.last:
            return fit(stream(key, "fit"), model, thief.images, self.recipe, defence=Plain())
        narrow = dataclasses.replace(model.net, weights=frozenset(head(model)))
        fitted = fit(stream(key, "fit"), model.replace(net=narrow), thief.images, self.recipe, defence=Plain())
        return model.replace(params=model.params | head(fitted))  # weight decay has moved the others


def head(model: Classifier) -> dict[str, jax.Array]:
    """The last layer's weights by name. UserError where there is none of its own."""
    found = {name: value for name, value in model.params.items() if name.startswith(HEAD)}
    if not found:
        raise UserError("the stolen model has no last layer of its own")
    return found


@register("attack", "fine_tune_all", **FACTS)
@record
class FineTuneAll(Tuning):
    """recipe: how it is trained on."""

    recipe: Any = RECIPE


@register("attack", "fine_tune_last", **FACTS)
@record
class FineTuneLast(Tuning):
    """recipe: how the last layer is trained on."""

    recipe: Any = RECIPE
    last = True


@register("attack", "retrain_all", **FACTS)
@record
class RetrainAll(Tuning):
    """recipe: how it is trained on."""

    recipe: Any = RECIPE
    fresh = True


@register("attack", "retrain_last", **FACTS)
@record
class RetrainLast(Tuning):
    """recipe: how the last layer is trained."""

    recipe: Any = RECIPE
    last, fresh = True, True
