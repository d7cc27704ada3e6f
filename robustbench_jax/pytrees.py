"""Records: frozen dataclasses that are JAX pytrees, with fields that are traced and fields that are static.

Fields annotated int, float, array or another record are traced (a new value compiles nothing), fields annotated str,
bool, tuple or callable are static (a new value compiles anew).
"""

import dataclasses
import types as python_types
import typing
from collections.abc import Callable
from typing import Any

import jax


def static(**options: Any) -> Any:
    """A dataclass field that is part of the compiled program, whatever its annotation."""
    return dataclasses.field(metadata={"static": True}, **options)


def record(cls: type) -> type:
    """Makes `cls` a frozen dataclass and a pytree; adds `.replace(**changes)`."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    meta = [f.name for f in dataclasses.fields(cls) if _is_static(f)]
    data = [f.name for f in dataclasses.fields(cls) if f.name not in meta]
    cls.replace = dataclasses.replace
    return _pytree(cls, data, meta)


def _pytree(cls: type, data: list[str], meta: list[str]) -> type:
    """Not `register_dataclass`: in JAX 0.10 and 0.11 the tree structures of two classes so registered compare
    equal where their static fields do, and now and then `jit` runs the program it compiled for the other class.
    """
    keys = [jax.tree_util.GetAttrKey(name) for name in data]

    def flatten(it):
        return [getattr(it, name) for name in data], tuple(getattr(it, name) for name in meta)

    def flatten_with_keys(it):
        values, static_values = flatten(it)
        return list(zip(keys, values, strict=True)), static_values

    def unflatten(static_values, values):
        it = object.__new__(cls)  # what was checked when it was made is not checked again, nor are tracers
        for name, value in (*zip(meta, static_values, strict=True), *zip(data, values, strict=True)):
            object.__setattr__(it, name, value)
        return it

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def _is_static(field: dataclasses.Field) -> bool:
    if "static" in field.metadata:
        return field.metadata["static"]
    options = typing.get_args(field.type) if isinstance(field.type, python_types.UnionType) else (field.type,)
    return all((typing.get_origin(o) or o) in (str, bool, bytes, tuple, Callable, type(None)) for o in options)
