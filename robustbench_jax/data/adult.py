"""adult("adult.data"): the census income table of the UCI repository, from its own two files, which are not bundled.

Reference: Becker & Kohavi, 1996, doi:10.24432/C5XW20 (CC BY 4.0): 32,561 people in adult.data, 16,281 in adult.test,
which has to lie beside it. The label is an income above 50,000 dollars. Columns: what the files call them but for
fnlwgt, a sampling weight, and education-num, which repeats education; each one-hot, with "?" for unknown among its
values, numbers in the bands of BANDS; the private one comes last.
Shapes: N people, F pixels, images [1, F, 1] of 0 and 255.
"""

import csv
from pathlib import Path

import numpy as np

from robustbench_jax.data import checks
from robustbench_jax.registry import nearest, register
from robustbench_jax.types import Attribute, Dataset, UserError, record

FIELDS = (
    *(
        "age",
        "workclass",
        "fnlwgt",
        "education",
        "education-num",
        "marital-status",
        "occupation",
        "relationship",
        "race",
    ),
    *("sex", "capital-gain", "capital-loss", "hours-per-week", "native-country"),
)
DROPPED = ("fnlwgt", "education-num")
BANDS = {  # the first number of each band but the lowest
    "age": (25, 35, 45, 55, 65),
    "capital-gain": (1, 5000),
    "capital-loss": (1, 1500),
    "hours-per-week": (20, 35, 41, 50),
}
INCOME = ("<=50K", ">50K")


@register("dataset", "adult", paper="becker1996")
@record
class Adult:
    """path: of adult.data; sensitive: the private column, one of those that have no bands."""

    path: str
    sensitive: str = "marital-status"

    def __post_init__(self):
        known = [name for name in FIELDS if name not in (*DROPPED, *BANDS)]
        if self.sensitive not in known:
            raise UserError(f"adult: sensitive = '{self.sensitive}'{nearest(self.sensitive, known)}")

    def available(self) -> bool:
        return all(path.is_file() for path in self._files().values())

    def how_to_get(self) -> str:
        missing = next(path for path in self._files().values() if not path.is_file())
        return f"there is no file '{missing}'; adult.data and adult.test are at archive.ics.uci.edu/dataset/2/adult"

    def _files(self) -> dict[str, Path]:
        return {"train": Path(self.path), "test": Path(self.path).with_suffix(".test")}

    def load(self, split: str, limit: int | None) -> Dataset:
        """Values are those of both files, so that columns mean the same in both."""
        rows = {name: _read(path) for name, path in self._files().items()}
        every = [row for part in rows.values() for row in part]
        checks.enough(len(rows[split]), limit, self.path)
        names = [name for name in FIELDS if name not in (*DROPPED, self.sensitive)] + [self.sensitive]
        parts, values = [], ()
        for name in names:
            at = FIELDS.index(name)
            values = tuple(sorted({_value(name, row[at]) for row in every}))
            number = {value: i for i, value in enumerate(values)}
            own = np.array([number[_value(name, row[at])] for row in rows[split]])
            parts.append(np.eye(len(values), dtype=np.uint8)[own] * 255)
        x = np.concatenate(parts, axis=1)
        y = np.array([INCOME.index(row[-1].rstrip(".")) for row in rows[split]], np.int32)
        private = Attribute(self.sensitive, own.astype(np.int32), values, (x.shape[1] - len(values), x.shape[1]))
        return Dataset(x[:, None, :, None], y, INCOME, self.path, private)


def _value(name: str, text: str) -> str:
    """The value's name; of a number, that of its band, which sorts as the bands do."""
    if name not in BANDS:
        return text
    band = int(np.searchsorted(BANDS[name], float(text), side="right"))
    return f"{band}: from {BANDS[name][band - 1]}" if band else "0: below the others"


def _read(path: Path) -> list[list[str]]:
    """Rows of FIELDS and the income. UserError for anything else."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    rows = [[cell.strip() for cell in row] for row in csv.reader(line for line in lines if not line.startswith("|"))]
    rows = [row for row in rows if any(row)]
    for number, row in enumerate(rows, 1):
        whole = len(row) == len(FIELDS) + 1 and row[-1].rstrip(".") in INCOME
        if not whole or not all(row[FIELDS.index(name)].isdigit() for name in BANDS):
            raise UserError(f"{path}: record {number} is none of Adult: {', '.join(row)[:60]}")
    if not rows:
        raise UserError(f"{path} holds no records")
    return rows
