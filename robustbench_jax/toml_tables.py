"""TOML files that people write: read with errors that name the file, and keys that are none."""

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from robustbench_jax.registry import nearest
from robustbench_jax.types import UserError


def read(path: str | Path) -> dict[str, Any]:
    """The tables of a file. UserError where it cannot be read or is no TOML."""
    try:
        return tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from None


def named(path: str | Path, make: Callable, *arguments: Any) -> Any:
    """make(*arguments), whose UserErrors begin with the file's path."""
    try:
        return make(*arguments)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def require_known(table: dict[str, Any], known: Iterable[str], what: str) -> None:
    """UserError for a key that is none of `known`, with the nearest one."""
    for key in table:
        if key not in known:
            raise UserError(f"no key '{key}' in {what}{nearest(key, known)}")
