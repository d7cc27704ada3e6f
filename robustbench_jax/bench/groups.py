"""What tables group records by, and which records can be paired, image by image."""

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.records import Record
from robustbench_jax.registry import build
from robustbench_jax.types import UserError


def name(cell: Cell) -> str:
    """The model and how it was trained; the recipe only where it is not the default one."""
    recipe = cell.show("recipe")
    return cell.victim + (f" + {recipe}" if recipe not in ("", "sgd") else "")


def images(cell: Cell) -> tuple:
    """What names the images of a cell; the same for attacks on them and certificates of them."""
    return cell.dataset, cell.split, cell.examples, cell.seed


def victim(cell: Cell) -> tuple:
    """What names the model of a cell."""
    return cell.model, cell.defence, cell.recipe, cell.model_defence


def radius(budget: str) -> tuple[str, float | None]:
    """The kind of ball and its radius; ("", None) for budgets that have none."""
    try:
        ball = build("budget", budget)
    except UserError:
        return "", None
    return ball.registered[1], getattr(ball, "eps", None)


def of_evasion(records: Iterable[Record]) -> list[Record]:
    """Those that tables of robust accuracy are made of."""
    return [record for record in records if record.cell.threat == "evasion"]


def of_certification(records: Iterable[Record]) -> list[Record]:
    """Those that certified accuracy is read from."""
    return [record for record in records if record.cell.threat == "certification"]


def grouped(records: Iterable[Record], key: Callable[[Cell], tuple]) -> list[list[Record]]:
    """Records whose cells have the same key, in the records' order."""
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record.cell)].append(record)
    return list(groups.values())


def comparable(records: list[Record]) -> bool:
    """Whether results are of the same images and the same weights, so that they can be paired."""
    first = records[0]
    weights = {record.provenance.get("weights") for record in records}
    return len(weights) == 1 and all(same_images(first, record) for record in records)


def same_images(a: Record, b: Record) -> bool:
    same_length = len(array(a, "clean_correct")) == len(array(b, "clean_correct"))
    return same_length and a.provenance.get("data") == b.provenance.get("data")


def array(record: Record, name: str) -> np.ndarray:
    """bool [N]."""
    return np.array(record.per_example[name], bool)


def numbers(record: Record, name: str, nothing: float) -> np.ndarray:
    """float [N], with `nothing` in the place of what is null; all of it where the record has no such array."""
    values = record.per_example.get(name, [None] * len(record.per_example["clean_correct"]))
    return np.array([nothing if value is None else value for value in values], float)
