"""Files that are there whole or not at all: written under another name, flushed to the disk, renamed."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustbench_jax.types import UserError


def write_whole(path: Path, fill: Callable[[Any], Any], mode: int = 0o644) -> None:
    """Calls `fill` with a binary file that becomes `path` when it is whole, and vanishes otherwise."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"could not write {path}: {reason(error)}; what was written before is whole") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def reason(error: OSError) -> str:
    """Why a file could not be written, in a few words."""
    return "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
