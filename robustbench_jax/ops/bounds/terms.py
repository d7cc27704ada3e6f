"""Scalar functions as terms: the expression that a model applies to each entry of an activation."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Source:
    """The entry itself."""


@dataclass(frozen=True, eq=False)
class Known:
    """A number or array that does not depend on the image."""

    value: Any


@dataclass(frozen=True, eq=False)
class Term:
    """A JAX primitive applied to terms."""

    primitive: Any
    params: tuple[tuple[str, Any], ...]
    arguments: tuple[Any, ...]


def value(term: Any, z: jax.Array, decided: dict[int, Any] | None = None) -> jax.Array:
    """The term at z, entry by entry. decided: outcomes of comparisons that hold whatever z is, by id."""
    decided = decided or {}

    def visit(part: Any, done: dict) -> Any:
        if isinstance(part, Source):
            return z
        if isinstance(part, Known):
            return part.value
        if id(part) not in done:
            arguments = [visit(a, done) for a in part.arguments]
            found = part.primitive.bind(*_alike(arguments), **dict(part.params))
            done[id(part)] = decided[id(part)](found) if id(part) in decided else found
        return done[id(part)]

    return visit(term, {})


def _alike(arguments: list) -> list:
    """Known arrays broadcast to the others' shape: a grid in front is longer than what the model had."""
    shape = jnp.broadcast_shapes(*(jnp.shape(a) for a in arguments))
    return [a if jnp.shape(a) in ((), shape) else jnp.broadcast_to(a, shape) for a in arguments]


def is_affine(term: Any) -> bool:
    """Whether a term is a line, by its operations."""
    if isinstance(term, Source | Known):
        return True
    name, arguments = str(term.primitive), term.arguments
    depends = [not _known(a) for a in arguments]
    linear = name in ("add", "sub", "neg", "add_any", "copy") or (name == "mul" and sum(depends) < 2)
    return (linear or (name == "div" and not depends[1])) and all(map(is_affine, arguments))


def constants(term: Any) -> list:
    """The numbers and arrays in a term."""
    if isinstance(term, Known):
        return [term.value]
    return [] if isinstance(term, Source) else [v for a in term.arguments for v in constants(a)]


def _known(term: Any) -> bool:
    return isinstance(term, Known) or (isinstance(term, Term) and all(map(_known, term.arguments)))
