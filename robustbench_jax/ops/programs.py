"""Jaxprs, run equation by equation by whoever does something else at some of them."""

from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal

CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")


def reader(values: dict) -> Any:
    """What an equation's operand is, values of variables being known."""
    return lambda atom: atom.val if isinstance(atom, Literal) else values[atom]


def outputs(eqn: Any, inputs: list) -> list[jax.Array]:
    """What the equation says."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, parameters = bound if isinstance(bound, tuple) else ((), bound)  # a pair up to JAX 0.9
    found = eqn.primitive.bind(*functions, *inputs, **parameters)
    return list(found) if eqn.primitive.multiple_results else [found]


def called(eqn: Any) -> ClosedJaxpr | None:
    """The program that an equation merely calls; None for all others."""
    if eqn.primitive.name not in CALLS:
        return None
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return inner if isinstance(inner, ClosedJaxpr) else None if inner is None else ClosedJaxpr(inner, ())
