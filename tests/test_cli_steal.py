"""steal, as a user runs it: a record, a clone that can be loaded, and what is refused."""

import json

import jax
import numpy as np
import pytest

import robustbench_jax as rb
from robustbench_jax import load_model
from robustbench_jax.cli import main
from robustbench_jax.cli import steal as cli_steal

ATTACK = "knockoff(model='mlp([8])', least_steps=10, recipe=adamw(epochs=1, batch_size=16))"


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (60, 6, 6, 1), np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "d.npz", **arrays, y_train=np.arange(60) % 3, y_test=np.arange(60) % 3, classes=["a", "b", "c"])
    return f'npz("{tmp_path / "d.npz"}")'


def steal(images, tmp_path, *more, attack=ATTACK, budget="queries(20)"):
    given = ["--model", "mlp([6])", "--dataset", images, "--attack", attack, "--budget", budget, "--examples", "12"]
    return main(["steal", *given, "--recipe", "sgd(epochs=1, batch_size=16)", "--out", str(tmp_path / "out"), *more])


def test_a_record_and_a_clone_are_kept(images, tmp_path, capsys):
    assert steal(images, tmp_path, "--json", "--save-clone", str(tmp_path / "clone")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["cell"]["threat"] == "extraction" and record["metrics"]["queries_spent"]["value"] == 20
    clone = load_model(f'checkpoint("{tmp_path / "clone"}")')
    stored = np.load(tmp_path / "out" / "arrays" / f"{record['id']}.npz")
    for name, value in clone.params.items():
        np.testing.assert_array_equal(value, stored[f"clone/{name}"])


@pytest.mark.parametrize(
    "attack, budget, more, message",
    [
        ("knockof", "queries(20)", (), "did you mean 'knockoff'"),
        (ATTACK, "linf(0.1)", (), "takes no budget 'linf'"),
        ("pgd", "linf(0.1)", (), "see the verb attack"),
        ("equation_solving", "queries(20)", (), "needs 37 for images"),
        ("equation_solving", "queries(40)", ("--save-clone", "x"), "has no architecture"),
        (ATTACK, "queries(20)", ("--save-clone", "{images}/x"), "--save-clone: its directory {images}: "),
    ],
)
def test_what_cannot_be_stolen_is_said_in_one_line(attack, budget, more, message, images, tmp_path, capsys):
    file = str(tmp_path / "d.npz")
    given = [it.replace("{images}", file) for it in more]
    assert steal(images, tmp_path, *given, attack=attack, budget=budget) == 2
    assert message.replace("{images}", file) in capsys.readouterr().err


def test_more_queries_than_fit_into_memory_are_one_line(images, tmp_path, capsys, monkeypatch):
    def full(*of, **given):
        raise MemoryError("Unable to allocate 73.0 GiB")

    monkeypatch.setattr(cli_steal, "one_cell", full)
    assert steal(images, tmp_path) == 2
    err = capsys.readouterr().err
    assert err == "robustbench-jax: out of memory: Unable to allocate 73.0 GiB; ask for fewer images or queries\n"


def test_the_same_from_python(images):
    model = rb.build_model("mlp([6])", (6, 6, 1), 3, jax.random.key(0))
    record = rb.steal(model, images, ATTACK, "queries(20)", "top_k(1)", examples=12)
    assert record.metrics["queries_spent"].value == 20 and record.cell.model_defence == "top_k(k=1)"
    with pytest.raises(rb.UserError, match=r"use steal\(\)"):
        rb.attack(model, images, ATTACK, "queries(20)")
    with pytest.raises(rb.UserError, match="as pool"):
        rb.steal(model, rb.load_dataset(images), ATTACK, "queries(20)")
