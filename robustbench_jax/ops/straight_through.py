"""Models whose backward pass is another one than their forward pass says: BPDA, for any model.

References: backward pass differentiable approximation, Athalye, Carlini & Wagner, ICML 2018, arXiv:1802.00420; the
straight-through estimator, Bengio et al., 2013, arXiv:1308.3432, of the sign as in Hubara et al., NeurIPS 2016,
arXiv:1602.02830.
Shapes: D input shape, C classes. What is computed forwards is what the model computes, to the bit.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from robustbench_jax.ops.programs import called, outputs, reader
from robustbench_jax.types import record

ROUNDING = ("round", "floor", "ceil", "sign")


@record
class Behind:
    """A model without its own backward pass: what the three forms share."""

    model: Any

    @property
    def stochastic(self) -> bool:
        return self.model.stochastic

    def keyed(self, key: jax.Array) -> "Behind":
        return self.replace(model=self.model.keyed(key))


@record
class PastFront(Behind):
    """Of a net with `front(params, x)` and `back(params, x)`, the front is passed straight through: its backward pass
    is that of `net.smooth(params, x)` where there is one, and the identity where there is none. (With a key as their
    third argument where the net is stochastic.)
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        net, params = self.model.net, self.model.params
        key = (self.model.key,) if self.model.stochastic else ()
        soft = net.smooth(params, x, *key) if hasattr(net, "smooth") else x
        return net.back(params, through(net.front(params, x, *key), soft), *key)


@record
class PastRounding(Behind):
    """Rounding, wherever it happens in the model, is passed straight through: round, floor, ceil, conversion to whole
    numbers and back; sign as a ramp from -1 to 1. Not within loops, nor where the model defines its own derivative.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        program = jax.make_jaxpr(self.model)(x)
        return _evaluate(program.jaxpr, program.consts, x)[0]


@record
class Replaced(Behind):
    """The model's logits with the gradient of a surrogate's."""

    surrogate: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        return through(self.model(x), self.surrogate(x))


def rounds(model: Any, shape: tuple[int, ...]) -> bool:
    """Whether there is rounding in the model of images [*shape] that PastRounding passes."""
    keyed = model.keyed(jax.random.key(0))
    return _rounds(jax.make_jaxpr(keyed)(jax.ShapeDtypeStruct(shape, jnp.float32)).jaxpr)


def through(hard: jax.Array, soft: jax.Array) -> jax.Array:
    """`hard` forwards, to the bit; the derivative of `soft`."""
    return jax.lax.stop_gradient(hard) + (soft - jax.lax.stop_gradient(soft))


def _evaluate(jaxpr: Any, consts: list, *arguments: jax.Array) -> list:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))
    floats: dict = {}  # what whole numbers were before they were made whole, straight through
    read = reader(values)
    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        found = _special(eqn, inputs, floats) or outputs(eqn, inputs)
        values.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _special(eqn: Any, inputs: list, floats: dict) -> list | None:
    """The outputs of an equation that is passed straight through; None for all others."""
    name = eqn.primitive.name
    if name in ROUNDING and jnp.issubdtype(inputs[0].dtype, jnp.floating):
        soft = jnp.clip(inputs[0], -1, 1) if name == "sign" else inputs[0]
        return [through(outputs(eqn, inputs)[0], soft)]
    if name == "convert_element_type":
        return _converted(eqn, inputs[0], floats)
    inner = called(eqn)
    return _evaluate(inner.jaxpr, inner.consts, *inputs) if inner is not None and _rounds(inner.jaxpr) else None


def _converted(eqn: Any, value: jax.Array, floats: dict) -> list | None:
    new = eqn.params["new_dtype"]
    source = eqn.invars[0]
    if jnp.issubdtype(new, jnp.integer) and jnp.issubdtype(value.dtype, jnp.floating):
        whole = outputs(eqn, [value])[0]
        floats[eqn.outvars[0]] = through(whole.astype(value.dtype), value)
        return [whole]
    if not isinstance(source, Literal) and source in floats and jnp.issubdtype(new, jnp.floating):
        return [floats[source].astype(new)]
    return None


def _rounds(jaxpr: Any) -> bool:
    def from_float(eqn):
        return jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating)

    def whole(eqn):
        return eqn.primitive.name == "convert_element_type" and jnp.issubdtype(eqn.params["new_dtype"], jnp.integer)

    def within(eqn):
        inner = called(eqn)
        return inner is not None and _rounds(inner.jaxpr)

    return any((eqn.primitive.name in ROUNDING or whole(eqn)) and from_float(eqn) or within(eqn) for eqn in jaxpr.eqns)
