"""Where a model multiplies what it sees by a weight: read off its jaxpr, so that no layer has to know of it.

A weight that is the kernel of one convolution or of one matrix product, and nothing else, has a `Product`. `run` is the
model again, with a tap, zeros, added to what each product gives: the derivative by the tap is the product's slope, and
from what the product saw and its slope its weight's gradient is made. Weights in loops, or used twice, have none.
Shapes: B examples of K images each, D input shape; a kernel meets an example at T places, a numbers in, b out at each.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from robustbench_jax.models.net import Net, Params
from robustbench_jax.ops.layers import columns, conv_p, kernel_gradient_p
from robustbench_jax.ops.programs import called, outputs, reader


@dataclass(frozen=True)
class Product:
    """kernel, slope: the shapes of the weight and, for one example, of what comes out."""

    kernel: tuple[int, ...]
    slope: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(T, a, b)."""
        raise NotImplementedError

    def rows(self, x: jax.Array, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of one example: what the kernel meets [T, a], and the slopes there [T, b]."""
        raise NotImplementedError

    def gradient(self, x: jax.Array, slope: jax.Array) -> jax.Array:
        """Of one example, in the kernel's shape."""
        raise NotImplementedError

    def total(self, x: jax.Array, slope: jax.Array) -> jax.Array:
        """The gradients of B examples, added up."""
        raise NotImplementedError


@dataclass(frozen=True)
class Convolution(Product):
    """strides, pads as in ops/layers.py; kernel [h, w, I, O], x [K, H, W, I]."""

    strides: tuple[int, int]
    pads: tuple

    @property
    def sizes(self) -> tuple[int, int, int]:
        high, wide, ins, outs = self.kernel
        return self.slope[0] * self.slope[1] * self.slope[2], high * wide * ins, outs

    def rows(self, x, slope):
        seen = columns(x, self.kernel[:2], strides=self.strides, pads=self.pads)
        return seen.reshape(-1, seen.shape[-1]), slope.reshape(-1, slope.shape[-1])

    def gradient(self, x, slope):
        return kernel_gradient_p.bind(x, slope, strides=self.strides, pads=self.pads, window=self.kernel[:2])

    def total(self, x, slope):
        return self.gradient(*(each.reshape(-1, *each.shape[2:]) for each in (x, slope)))


@dataclass(frozen=True)
class MatrixProduct(Product):
    """taken, summed: the axes of x and of the kernel that are multiplied and added up, in this order. first: the kernel
    is the first operand, so that its axes lead in what comes out.
    """

    taken: tuple[int, ...]
    summed: tuple[int, ...]
    first: bool

    @property
    def sizes(self) -> tuple[int, int, int]:
        ins = math.prod(self.kernel[axis] for axis in self.summed)
        outs = math.prod(self.kernel) // ins
        return math.prod(self.slope) // outs, ins, outs

    def rows(self, x, slope):
        places, ins, outs = self.sizes
        seen = jnp.moveaxis(x, self.taken, range(-len(self.taken), 0)).reshape(places, ins)
        return seen, slope.reshape(outs, places).T if self.first else slope.reshape(places, outs)

    def gradient(self, x, slope):
        seen, slopes = self.rows(x, slope)
        return self._folded(seen.T @ slopes)

    def total(self, x, slope):
        seen, slopes = jax.vmap(self.rows)(x, slope)
        return self._folded(jnp.einsum("nta,ntb->ab", seen, slopes))

    def _folded(self, gradient: jax.Array) -> jax.Array:
        """From [a, b] to the kernel's shape."""
        first = [self.kernel[axis] for axis in self.summed]
        rest = [size for axis, size in enumerate(self.kernel) if axis not in self.summed]
        return jnp.moveaxis(gradient.reshape(*first, *rest), range(len(first)), self.summed)


def products(net: Net, params: Params, x: Any) -> dict[str, Product]:
    """By the name of the weight; x: one example's images [K, D], or their shape and type."""
    program, names = _program(net, params, x)
    found: dict[str, list[Product | None]] = {}
    _collect(program.jaxpr, names, found)
    return {name: uses[0] for name, uses in found.items() if len(uses) == 1 and uses[0] is not None}


def run(net: Net, params: Params, x: jax.Array, taps: Params) -> tuple[jax.Array, Params]:
    """(logits [K, C] of one example's images x [K, D], what each product that has a tap meets)."""
    program, names = _program(net, params, x)
    seen: dict[str, jax.Array] = {}
    arguments = [*(params[name] for name in names.values()), x]
    (logits,) = _evaluate(program.jaxpr, program.consts, arguments, names, taps, seen)
    return logits, seen


def _program(net: Net, params: Params, x: Any) -> tuple[Any, dict]:
    """The model's jaxpr of trained weights and images, and which of its variables is which weight."""
    weights = net.trainable(params)
    program = jax.make_jaxpr(lambda weights, x: net(params | weights, x))(weights, x)
    return program, dict(zip(program.jaxpr.invars[:-1], sorted(weights), strict=True))


def _collect(jaxpr: Any, names: dict, found: dict) -> None:
    """Every use of a named variable: the product that it is the kernel of, or None for another one."""
    for eqn in jaxpr.eqns:
        program = called(eqn)
        if program is not None and any(_named(atom, names) for atom in eqn.invars):
            _collect(program.jaxpr, _inside(program, eqn, names), found)
            continue
        for place, atom in enumerate(eqn.invars):
            if name := _named(atom, names):
                found.setdefault(name, []).append(_read(eqn, place))
    for atom in jaxpr.outvars:
        if name := _named(atom, names):
            found.setdefault(name, []).append(None)


def _read(eqn: Any, place: int) -> Product | None:
    """The product whose kernel is this operand of the equation."""
    kernel, slope = eqn.invars[place].aval.shape, eqn.outvars[0].aval.shape
    if eqn.primitive is conv_p and place == 1:
        return Convolution(kernel, slope, eqn.params["strides"], eqn.params["pads"])
    if eqn.primitive.name != "dot_general":
        return None
    axes, (batch, _) = eqn.params["dimension_numbers"]
    return None if batch else MatrixProduct(kernel, slope, tuple(axes[1 - place]), tuple(axes[place]), place == 0)


def _evaluate(jaxpr: Any, consts: list, arguments: list, names: dict, taps: dict, seen: dict) -> list:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))
    read = reader(values)
    for eqn in jaxpr.eqns:
        inputs, program = [read(atom) for atom in eqn.invars], called(eqn)
        if program is not None and any(_named(atom, names) in taps for atom in eqn.invars):
            inner = _inside(program, eqn, names)
            found = _evaluate(program.jaxpr, program.consts, inputs, inner, taps, seen)
        else:
            found = outputs(eqn, inputs)
            for place, atom in enumerate(eqn.invars):
                if (name := _named(atom, names)) in taps:
                    found, seen[name] = [found[0] + taps[name]], inputs[1 - place]
        values.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _named(atom: Any, names: dict) -> str | None:
    return None if isinstance(atom, Literal) else names.get(atom)


def _inside(program: Any, eqn: Any, names: dict) -> dict:
    """The weights among the variables of a program that is called."""
    pairs = zip(program.jaxpr.invars, eqn.invars, strict=True)
    return {own: name for own, atom in pairs if (name := _named(atom, names))}
