"""robustbench("Carmon2019Unlabeled", dataset="cifar10", threat="linf"): the models of RobustBench's zoo, by its names.

Reference: Croce et al., NeurIPS 2021 Datasets and Benchmarks, arXiv:2010.09670. robustbench.json holds, as of March
2025, every entry's architecture, normalisation, file and published accuracies in percent, and of the entries whose
architecture is not here what it is. Files are kept as RobustBench keeps them, DIRECTORY/cifar10/Linf/NAME.pt, so that
ROBUSTBENCH_JAX_CACHE may point to the `models` directory of an installation of it.
"""

import json
import os
import shutil
import urllib.request
from functools import lru_cache
from pathlib import Path

from robustbench_jax.models import torch_weights
from robustbench_jax.registry import nearest, register
from robustbench_jax.types import Classifier, UserError, record

TABLE = Path(__file__).with_suffix(".json")
CACHE = "ROBUSTBENCH_JAX_CACHE"
FOLDERS = {"linf": "Linf", "l2": "L2"}
DOWNLOAD = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
PAGE = "https://drive.google.com/file/d/{}/view"
SECONDS = 30  # without an answer


@register("pretrained", "robustbench", paper="croce2021robustbench")
@record
class RobustBench:
    """name: as RobustBench writes it. dataset: cifar10 or cifar100. threat: linf or l2."""

    name: str
    dataset: str = "cifar10"
    threat: str = "linf"

    def load(self) -> tuple[Classifier, dict]:
        """The classifier; the description holds the published accuracies. Downloads the weights at the first use.

        Raises UserError for what the table does not have, and where the weights cannot be had or do not fit.
        """
        row = published(self.name, self.dataset, self.threat)
        path = fetch(self.name, self.dataset, self.threat)
        try:
            return _load(path, row)
        except UserError as error:
            raise UserError(f"{error}; if the file is not {PAGE.format(row['file'])}, delete it") from None


@lru_cache(maxsize=1)
def table() -> dict[str, dict[str, dict]]:
    """{"cifar10/linf": {name: entry}}."""
    return json.loads(TABLE.read_text())


def published(name: str, dataset: str = "cifar10", threat: str = "linf") -> dict:
    """The entry of a model: architecture, file, eps, clean and autoattack (accuracy in percent), paper.

    Raises UserError with the nearest name for an unknown one, and for an architecture that is not here.
    """
    boards = sorted(table())
    for word, known in ((dataset, {b.split("/")[0] for b in boards}), (threat, {b.split("/")[1] for b in boards})):
        if word not in known:
            raise UserError(f"robustbench: no '{word}'{nearest(word, sorted(known))}")
    if f"{dataset}/{threat}" not in boards:
        raise UserError(f"robustbench: no models for {threat} on {dataset}; there are: {', '.join(boards)}")
    rows = table()[f"{dataset}/{threat}"]
    if name not in rows:
        raise UserError(f"RobustBench has no {threat} model '{name}' on {dataset}{nearest(name, rows)}")
    if "unsupported" in rows[name]:
        raise UserError(f"RobustBench's '{name}' is a {rows[name]['unsupported']}, an architecture that is not here")
    return rows[name]


def board_of(name: str) -> str | None:
    """The first board that has a model of that name, such as "cifar10/linf"."""
    return next((board for board, rows in table().items() if name in rows), None)


def place(name: str, dataset: str, threat: str) -> Path:
    """Where a model's file is kept."""
    root = os.environ.get(CACHE) or Path.home() / ".cache" / "robustbench_jax"
    return Path(root).expanduser() / dataset / FOLDERS[threat] / f"{name}.pt"


def fetch(name: str, dataset: str, threat: str) -> Path:
    """The file of a model, downloaded if it is not there; a download that stops leaves nothing behind."""
    path = place(name, dataset, threat)
    if path.is_file():
        return path
    file = published(name, dataset, threat)["file"]
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(DOWNLOAD + file, partial)
        partial.rename(path)
    except OSError as error:
        raise UserError(
            f"could not download '{name}' ({getattr(error, 'reason', error)}): get {PAGE.format(file)} and save it as "
            f"{path}, or set {CACHE} to a directory that has it as {path.relative_to(path.parents[2])}"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer, path.open("wb") as out:
        shutil.copyfileobj(answer, out)
        length = answer.headers.get("Content-Length")
    if length is not None and path.stat().st_size != int(length):
        raise OSError(f"{path.stat().st_size} of {length} bytes came")
    with path.open("rb") as written:
        if written.read(1) in (b"<", b""):
            raise OSError("a page came instead of the file, as when too many have asked for it")


def _load(path: Path, row: dict) -> tuple[Classifier, dict]:
    """Where the file has a mean and a deviation of its own, those count, as in RobustBench."""
    found = torch_weights.open_weights(str(path), row["architecture"], row.get("entry"))
    given = (row.get("mean", [0]), row.get("std", [1]))
    own = found.normalisation()
    normalisation = tuple(tuple(g if o is None else o.tolist()) for g, o in zip(given, own, strict=True))
    classifier, description = torch_weights.fit(found, normalisation, (32, 32, 3))
    figures = {key: row[key] for key in ("eps", "clean", "autoattack", "paper")}
    return classifier, description | {"published": figures}
