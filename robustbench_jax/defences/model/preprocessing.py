"""What model defences share, and those among them that change the image before the model sees it.

Shapes: D input shape.
"""

from typing import Any

import jax

from robustbench_jax.models.fronted import Fronted
from robustbench_jax.ops.straight_through import through
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record


class ModelDefence:
    """What a registered model defence is: `protect` makes another classifier of a trained one.

    facts: obfuscates=True where it hides gradients rather than making the model more robust; alone=True where it does
    nothing beside another one.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        """The defended classifier. data: training images, for what has to be fitted. The key is consumed."""
        raise NotImplementedError


class Preprocessing(ModelDefence):
    """A model defence that changes the image: `transform`, for one image, random where `stochastic`.

    differentiable: whether the derivative of `transform` is of use; where it is not, `smooth` has it for BPDA.
    hosted: whether it asks the host, inside a compiled program.
    """

    stochastic = False
    differentiable = True
    hosted = False

    def fitted(self, key: jax.Array, data: Dataset) -> "Preprocessing":
        """What it becomes once it has what it needs (a denoiser). data: training images. The key is consumed."""
        return self

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        """What the model sees instead of x [D]. key: None unless stochastic."""
        raise NotImplementedError

    def smooth(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        """Something near to it, through which gradients pass; the identity unless a defence knows better."""
        return x

    def past(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        """`transform`, to the bit, with a derivative of use."""
        seen = self.transform(key, x)
        return seen if self.differentiable else through(seen, self.smooth(key, x))

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        return self.fitted(key, data).before(classifier)

    def before(self, classifier: Classifier) -> Classifier:
        """The classifier behind it."""
        net = Fronted(classifier.net, self.stochastic or classifier.stochastic)
        return Classifier(net, (classifier.params, self))


@register("model_defence", "chain", parts={"defences": "model_defence"})
@record
class Chain(ModelDefence):
    """Several model defences, one after another: an image meets the first of the list first."""

    defences: tuple = ()

    def __post_init__(self):
        if not isinstance(self.defences, tuple) or not self.defences:
            raise UserError("chain needs a list of model defences; write e.g. chain([bit_depth(4), jpeg(75)])")
        alone = [defence.registered[1] for defence in self.defences if defence.facts.get("alone")]
        if alone and len(self.defences) > 1:
            raise UserError(f"chain: {alone[0]} works on a bare network that is shown bare images; use it alone")

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        for number, defence in reversed(list(enumerate(self.defences))):
            classifier = defence.protect(jax.random.fold_in(key, number), classifier, data)
        return classifier
