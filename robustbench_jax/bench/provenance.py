"""Provenance: what a result was made with. No names of people or machines, no paths."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("robustbench-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")


def provenance(**more: Any) -> dict[str, Any]:
    """Versions, device and git state now; `more` adds digests and seeds."""
    devices = jax.local_devices()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": dict(_versions()),
        "git": _git(),
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "machine": platform.machine(),
        **more,
    }


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


@lru_cache(maxsize=1)
def _git() -> dict[str, Any] | None:
    """Commit and whether files differ from it, where the package runs from a checkout of its own repository."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
