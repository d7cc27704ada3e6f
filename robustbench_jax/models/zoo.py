"""The zoo: trained models by name, shipped with the package or in a directory of anybody's.

`fashion_mnist/linf/pgd_at` is dataset / threat model / name; each ships as .safetensors with a .json that tells its
architecture, recipe and measured accuracy. `zoo("fashion_mnist/linf/pgd_at")` is the same model as an argument of
something else, such as transfer(...). `checkpoint("dir")` is a directory that `train` wrote.
"""

import json
from importlib import resources
from pathlib import Path

from robustbench_jax.models import files
from robustbench_jax.registry import nearest, parse, register
from robustbench_jax.types import Classifier, UserError, record

SHIPPED = Path(str(resources.files("robustbench_jax") / "zoo"))


@register("pretrained", "checkpoint")
@record
class Checkpoint:
    """path: a directory that `robustbench-jax train` wrote."""

    path: str

    def load(self) -> tuple[Classifier, dict]:
        return files.load(self.path)


@register("pretrained", "zoo")
@record
class Shipped:
    """name: a model that ships, dataset / threat model / name."""

    name: str

    def __post_init__(self):
        require(self.name)

    def load(self) -> tuple[Classifier, dict]:
        return load_shipped(self.name)


def names() -> list[str]:
    """The models that ship."""
    return sorted(str(path.relative_to(SHIPPED).with_suffix("")) for path in SHIPPED.glob("*/*/*.json"))


def is_shipped(text: str) -> bool:
    return "/" in parse(text).name


def require(name: str) -> None:
    """UserError for a name that no shipped model has, with the nearest one."""
    if name not in names():
        raise UserError(f"no model '{name}' in the zoo{nearest(name, names())}")


def load_shipped(name: str) -> tuple[Classifier, dict]:
    """A shipped model and its description."""
    require(name)
    return files.load_file_pair(SHIPPED / name)


def description(name: str) -> dict:
    return json.loads((SHIPPED / f"{name}.json").read_text())


def name_of(classifier: Classifier) -> str | None:
    """The name of the shipped model with exactly these weights, or None."""
    wanted = files.digest(classifier.params) if isinstance(classifier.params, dict) else None
    return next((name for name in names() if description(name)["weights"] == wanted), None)
