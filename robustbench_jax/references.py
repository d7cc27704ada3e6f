"""The papers that registered things are taken from: BibTeX entries by key.

references.bib has one entry a paper, in the order of keys, one field a line. The `paper` of a registration is the key
of one of them: name and year, and a word more where that says two papers. An arXiv number stands in `eprint`.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

SUITE = "robustbench_jax"  # the key of this benchmark itself
ENTRY = re.compile(r"@(\w+)\{([^,\s]+),\n((?:  \w+ = \{.*\},\n)+)\}\n")
FIELD = re.compile(r"  (\w+) = \{(.*)\},\n")


@dataclass(frozen=True)
class Reference:
    """One entry: its fields by name, and the text as BibTeX reads it."""

    key: str
    fields: dict[str, str]
    text: str

    def lies_at(self, address: str) -> bool:
        """Whether that is the address of the paper: on arXiv, by its DOI, or any other."""
        ends = (self.fields.get("eprint"), self.fields.get("doi"))
        return address == self.fields.get("url") or any(end and address.endswith(f"/{end}") for end in ends)


@lru_cache(maxsize=1)
def source() -> str:
    return resources.files("robustbench_jax").joinpath("references.bib").read_text("utf-8")


@lru_cache(maxsize=1)
def references() -> dict[str, Reference]:
    """All entries by key, in order."""
    return {it[2]: Reference(it[2], dict(FIELD.findall(it[3])), it[0]) for it in ENTRY.finditer(source())}


def key_at(address: str) -> str | None:
    """The key of the entry whose paper lies at an address such as https://arxiv.org/abs/1706.06083."""
    address = address.removesuffix(".pdf")
    return next((key for key, entry in references().items() if entry.lies_at(address)), None)
