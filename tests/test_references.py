"""The references: one complete entry a paper, and every registered paper is one of them."""

import importlib
import re

import pytest

from robustbench_jax.models.robustbench import table
from robustbench_jax.references import SUITE, key_at, references, source
from robustbench_jax.registry import PACKAGES, discover

REGISTERED = [found for kind in PACKAGES for found in discover(kind).values() if found.paper]
PUBLISHED = {row["paper"] for rows in table().values() for row in rows.values() if "unsupported" not in row}
NO_PAPER = ("https://github.com/RobustBench/robustbench/",)  # of RobustBench's model that nobody defended
ARXIV = re.compile(r"arXiv:\s*(\d{4}\.\d{4,5})")
ACCENT = re.compile(r"\\[\'`^\"~]")
PLACES = ("booktitle", "journal", "howpublished", "institution", "eprint")


def surname(entry) -> str:
    """Of the first author, in plain letters: `El Mahdi {El Mhamdi}` is El Mhamdi."""
    first = entry.fields["author"].split(" and ")[0]
    plain = ACCENT.sub("", first.replace('{\\"u}', "ue"))
    braced = re.search(r" \{(.+)\}$", plain)
    return braced[1] if braced else re.sub(r"[{}]", "", plain).split()[-1]


def letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", ACCENT.sub("", text).lower())


def said(found) -> str:
    """What the component and its module say of themselves, on one line."""
    documented = importlib.import_module(found.make.__module__).__doc__, found.make.__doc__
    return re.sub(r"\s+", " ", " ".join(filter(None, documented)))


def test_the_file_is_entries_in_the_order_of_their_keys_and_nothing_else():
    assert "\n".join(entry.text for entry in references().values()) == source()
    assert list(references()) == sorted(references())
    assert source().count("@") == len(references())


@pytest.mark.parametrize("key", references())
def test_an_entry_is_complete_and_its_key_is_name_and_year(key):
    entry = references()[key]
    assert {"title", "author", "year"} <= entry.fields.keys() and all(entry.fields.values())
    assert entry.text.count("{") == entry.text.count("}") and entry.text.isascii() and "et al" not in entry.text
    if key != SUITE:
        assert any(place in entry.fields for place in PLACES)
        name, year, _ = re.fullmatch(r"([a-z]+)(\d{4})([a-z]*)", key).groups()
        assert year == entry.fields["year"] and letters(surname(entry)).startswith(name)
    assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.fields.get("eprint", "1706.06083"))
    assert ("eprint" in entry.fields) == ("archiveprefix" in entry.fields)


@pytest.mark.parametrize("field", ["title", "eprint", "doi", "url"])
def test_no_two_entries_are_of_one_paper(field):
    values = [letters(entry.fields[field]) for entry in references().values() if field in entry.fields]
    assert sorted(set(values)) == sorted(values)


def test_every_registered_paper_has_an_entry_and_every_entry_is_used():
    used = {found.paper for found in REGISTERED} | {key_at(address) for address in PUBLISHED} | {SUITE}
    missing, unused = used - {None} - references().keys(), references().keys() - used
    assert not missing, f"write an entry into references.bib: {', '.join(sorted(missing))}"
    assert not unused, f"nothing is taken from these papers: {', '.join(sorted(unused))}"


@pytest.mark.parametrize("found", REGISTERED, ids=lambda found: f"{found.kind}-{found.name}")
def test_a_component_names_the_paper_of_its_key(found):
    """Its first author, and its arXiv number where it has one; the wrong one of two papers of a name and year fails."""
    entry, text = references()[found.paper], said(found)
    assert letters(surname(entry)) in letters(text)
    assert "eprint" not in entry.fields or entry.fields["eprint"] in ARXIV.findall(text)


@pytest.mark.parametrize("address", sorted(PUBLISHED - set(NO_PAPER)))
def test_a_published_model_has_the_entry_of_its_paper(address):
    assert key_at(address)


def test_an_address_is_that_of_one_paper():
    assert key_at("https://arxiv.org/abs/1706.06083") == "madry2018"
    assert key_at("https://arxiv.org/pdf/2202.10103.pdf") == "pang2022"
    assert key_at("https://doi.org/10.1016/j.patcog.2024.110394") == "chen2024"
    assert key_at("https://openreview.net/forum?id=rklOg6EFwS") == "wang2020"
    assert key_at("https://arxiv.org/abs/0706.0608") is None
