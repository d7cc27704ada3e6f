"""RobustBench's zoo: the table, and weights that are downloaded, already there, or nowhere to be had."""

import email.message
import io
import json
import re
import urllib.error
import urllib.request

import numpy as np
import pytest
from safetensors.numpy import save

from robustbench_jax.models import robustbench
from robustbench_jax.registry import build
from robustbench_jax.types import UserError
from tests.models.made import shapes_of, torch_arrays, zipped

TINY = {
    "architecture": "wide_resnet(10, 1)",
    "file": "1abc",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "eps": "8/255",
    "clean": 80.0,
    "autoattack": 50.0,
    "paper": "https://arxiv.org/abs/0",
}
ROWS = [(board, name, row) for board, rows in robustbench.table().items() for name, row in rows.items()]


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        build("pretrained", text).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, no network, and a board with one small model, Tiny2020."""
    monkeypatch.setenv(robustbench.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(robustbench, "table", lambda: {"cifar10/linf": {"Tiny2020": TINY}})
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return tmp_path / "cache"


def no_network(url, timeout):
    raise urllib.error.URLError("Name or service not known")


def answer(content: bytes, length: int | None = None):
    """A network that answers with these bytes; the URLs that were asked for are kept in `.asked`."""

    def urlopen(url, timeout):
        urlopen.asked.append(url)
        out = io.BytesIO(content)
        out.headers = email.message.Message()
        out.headers["Content-Length"] = str(len(content) if length is None else length)
        return out

    urlopen.asked = []
    return urlopen


def tiny(**more) -> bytes:
    return zipped(
        {"state_dict": {f"module.{k}": v for k, v in torch_arrays(TINY["architecture"], (32, 32, 3)).items()}} | more
    )


@pytest.mark.parametrize(
    "board, name, architecture, clean, autoattack",
    [
        ("cifar10/linf", "Carmon2019Unlabeled", "wide_resnet(depth=28, width=10)", 89.69, 59.53),
        ("cifar10/linf", "Wong2020Fast", "preact_resnet18_fast", 83.34, 43.21),
        ("cifar10/linf", "Wang2023Better_WRN-70-16", "wide_resnet_swish(depth=70, width=16)", 93.25, 70.69),
        ("cifar10/linf", "Standard", "wide_resnet(depth=28, width=10)", 94.78, 0.0),
        ("cifar10/l2", "Rice2020Overfitting", "preact_resnet18", 88.67, 67.68),
        ("cifar10/l2", "Engstrom2019Robustness", "resnet50_cifar", 90.83, 69.24),
        ("cifar100/linf", "Addepalli2022Efficient_RN18", "resnet18_cifar", 65.45, 27.67),
        ("cifar100/linf", "Rebuffi2021Fixing_R18_ddpm", "preact_resnet18_swish", 56.87, 28.50),
    ],
)
def test_the_table_has_the_published_figures(board, name, architecture, clean, autoattack):
    row = robustbench.published(name, *board.split("/"))
    assert (row["architecture"], row["clean"], row["autoattack"]) == (architecture, clean, autoattack)


def test_every_entry_has_a_file_and_an_architecture_or_says_what_is_missing():
    for board, name, row in ROWS:
        if "unsupported" in row:
            assert row["unsupported"], name
            continue
        assert len(row["file"]) == 33 and row["file"].startswith("1"), name
        assert 0 <= row["autoattack"] <= row["clean"] <= 100, name
        assert row["eps"] in {"cifar10/l2": ("0.5",)}.get(board, ("8/255", "0.031")), name
        assert len(row.get("mean", [0] * 3)) == len(row.get("std", [1] * 3)) == 3, name
    assert len(ROWS) == 135 and sum("architecture" in row for _, _, row in ROWS) == 109


SHALLOW = {
    re.sub(r"depth=\d+, width=\d+", "depth=10, width=1", row["architecture"])
    for _, _, row in ROWS
    if "architecture" in row
}


@pytest.mark.parametrize("architecture", sorted(SHALLOW))
def test_every_architecture_in_the_table_can_be_made(architecture):
    assert shapes_of(architecture, (32, 32, 3), 10)["head/bias"] == (10,)


def test_every_depth_in_the_table_is_one_that_there_is():
    depths = {int(d) for _, _, row in ROWS for d in re.findall(r"depth=(\d+)", row.get("architecture", ""))}
    assert depths == {28, 34, 70, 82, 94, 106} and all((depth - 4) % 6 == 0 for depth in depths)


@pytest.mark.parametrize(
    "text, said",
    [
        ('robustbench("Carmon2019Unlabelled")', "did you mean 'Carmon2019Unlabeled'?"),
        ('robustbench("Carmon2019Unlabeled", threat="l2")', "has no l2 model 'Carmon2019Unlabeled' on cifar10"),
        ('robustbench("Standard", dataset="cifar11")', "no 'cifar11'; did you mean 'cifar10'?"),
        ('robustbench("Standard", threat="Linf")', "no 'Linf'; did you mean 'linf'?"),
        ('robustbench("Standard", "cifar100", "l2")', "no models for l2 on cifar100; there are: cifar10/l2, "),
        ('robustbench("Chen2020Adversarial")', "'Chen2020Adversarial' is a ResNet-50, an ensemble"),
        ('robustbench("Debenedetti2022Light_XCiT-S12")', "is a XCiT-S12, an architecture that is not here"),
    ],
)
def test_what_is_not_in_the_table_is_named_with_the_nearest(text, said):
    assert said in refusal(text)


def test_without_a_network_the_user_is_told_what_to_get_from_where_and_where_to_put_it(cache):
    said = refusal('robustbench("Tiny2020")')
    assert "could not download 'Tiny2020' (Name or service not known)" in said
    assert "https://drive.google.com/file/d/1abc/view" in said
    assert f"save it as {cache}/cifar10/Linf/Tiny2020.pt" in said and "ROBUSTBENCH_JAX_CACHE" in said


def test_a_file_that_is_there_is_loaded_without_a_network(cache):
    path = cache / "cifar10" / "Linf" / "Tiny2020.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(tiny())
    classifier, description = build("pretrained", 'robustbench("Tiny2020")').load()
    assert description["published"] == {k: TINY[k] for k in ("eps", "clean", "autoattack", "paper")}
    assert json.loads(json.dumps(description))["classes"] == 10
    np.testing.assert_array_equal(classifier.params["normalise/std"], [0.25] * 3)
    assert classifier(np.zeros((32, 32, 3), np.float32)).shape == (10,)


def test_the_first_use_downloads_and_the_second_does_not(cache, monkeypatch):
    network = answer(tiny())
    monkeypatch.setattr(urllib.request, "urlopen", network)
    first = build("pretrained", 'robustbench("Tiny2020")').load()[1]
    assert build("pretrained", 'robustbench("Tiny2020")').load()[1] == first
    assert len(network.asked) == 1 and network.asked[0].endswith("id=1abc")
    assert [p.name for p in cache.rglob("*") if p.is_file()] == ["Tiny2020.pt"]


@pytest.mark.parametrize(
    "content, length, said",
    [
        (b"<!DOCTYPE html><html>Quota exceeded</html>", None, "a page came instead of the file"),
        (b"", None, "a page came instead of the file"),
        (tiny()[:1000], 5000, "1000 of 5000 bytes came"),
    ],
    ids=["page", "nothing", "cut"],
)
def test_a_download_that_fails_leaves_nothing_behind(content, length, said, cache, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", answer(content, length))
    assert said in refusal('robustbench("Tiny2020")')
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_a_mean_in_the_file_counts_as_it_does_in_robustbench(cache, monkeypatch):
    arrays = torch_arrays(TINY["architecture"], (32, 32, 3))
    arrays |= {"mu": np.full((1, 3, 1, 1), 0.125, np.float32), "sigma": np.full((1, 3, 1, 1), 2, np.float32)}
    monkeypatch.setattr(urllib.request, "urlopen", answer(save(arrays)))
    params = build("pretrained", 'robustbench("Tiny2020")').load()[0].params
    np.testing.assert_array_equal(params["normalise/mean"], [0.125] * 3)
    np.testing.assert_array_equal(params["normalise/std"], [2] * 3)


def test_a_wrong_file_in_the_cache_is_named(cache):
    path = cache / "cifar10" / "Linf" / "Tiny2020.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(zipped({"fc.weight": np.ones((10, 64), np.float32)}))
    said = refusal('robustbench("Tiny2020")')
    assert "Tiny2020.pt does not fit wide_resnet(10, 1)" in said and "delete it" in said
