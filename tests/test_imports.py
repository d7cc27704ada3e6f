"""The import arrow: each layer imports only from those before it, and siblings not at all."""

import ast
from pathlib import Path

import pytest

import robustbench_jax

ROOT = Path(robustbench_jax.__file__).parent
LAYERS = [
    ("pytrees",),
    ("types",),
    ("registry", "keys", "definitions", "references", "whole_files", "signing", "sealing"),
    ("toml_tables",),
    ("ops",),
    ("data", "models", "metrics", "poisons"),
    ("recipes", "checkpoints"),
    ("learning_curve", "suspects", "streams", "thefts"),
    ("traffic",),
    ("fitting", "attributes"),
    ("steps",),
    ("training", "federation"),
    ("ownership",),
    ("stacks",),
    ("attacks", "defences", "certify"),
    ("threats",),
    ("serving",),
    ("bench",),
    ("api",),
    ("__init__",),
    ("cli",),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
SIBLINGS = {"attacks", "defences", "certify"}


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            plain = node.module == "robustbench_jax"
            names = [f"robustbench_jax.{a.name}" for a in node.names] if plain else [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("robustbench_jax.")}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = part(path)
    for other in imported(path) - {own}:
        assert LEVEL[other] <= LEVEL[own], f"{own} imports {other}"
        assert not (own in SIBLINGS and other in SIBLINGS), f"{own} imports its sibling {other}"


def test_the_public_names_are_there():
    for name in robustbench_jax.__all__:
        assert getattr(robustbench_jax, name).__doc__
