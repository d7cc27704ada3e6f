"""poison: the verb for threats to the training, from data to record, pictures and an exported poison set."""

import json

import numpy as np
import pytest

import robustbench_jax as rb
from robustbench_jax.bench.records import Record
from robustbench_jax.cli import main
from robustbench_jax.data import load_dataset
from robustbench_jax.types import UserError

ARGUMENTS = ("--model", "mlp([16])", "--recipe", "sgd(epochs=2, batch_size=16)", "--budget", "rate(0.2)")


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Runs `poison` in a directory with images of noise, data.npz."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (64, 8, 8, 1), np.uint8) for split in ("train", "test")}
    arrays |= {f"y_{split}": np.arange(64) % 4 for split in ("train", "test")}
    np.savez("data.npz", **arrays, classes=list("abcd"))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["poison", "--dataset", 'npz("data.npz")', *ARGUMENTS, *arguments])
        return code, *capsys.readouterr()

    return call


def test_a_record_the_poison_set_and_a_picture_are_kept(run, tmp_path):
    code, out, _ = run("--attack", "badnets(target=1)", "--out", "out", "--save-images", "--json", "--examples", "40")
    record = Record.model_validate_json(out)
    assert code == 0 and record.cell.threat == "backdoor" and record.metrics["poisons"].value == 13
    assert record.metrics["backdoor_success_rate"].n == 30 and len(record.per_example["fooled"]) == 40
    assert "gu2019" in record.papers
    with np.load(tmp_path / "out" / "arrays" / f"{record.id}.npz") as kept:
        assert np.all(kept["poison_y"] == 1) and np.all(kept["poison_x"][:, -3:, -3:] == 255)
    assert (tmp_path / "out" / "images" / f"{record.id}.png").read_bytes().startswith(b"\x89PNG")


def test_a_rerun_of_the_victim_trains_nothing(run, tmp_path):
    run("--attack", "label_flip", "--out", "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "victims").rglob("model.json")}
    code, _, said = run("--attack", "label_flip", "--out", "out")
    assert code == 0 and len(stamps) == 2 and "accuracy drop" in said
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_exported_data_are_read_back_as_they_are_trained_on(run):
    code, _, said = run("--attack", "badnets", "--export", "poisoned.npz")
    data = load_dataset('npz("poisoned.npz")', "train")
    with np.load("poisoned.npz") as file:
        marks = file["poisoned"]
    assert code == 0 and marks.sum() == 13 and np.all(data.y[marks] == 0) and data.classes == tuple("abcd")
    assert data.digest in said


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--attack", "badnet"), "no attack 'badnet'; did you mean 'badnets'?"),
        (("--attack", "badnets(target=9)"), "badnets: target = 9: the data has classes 0 to 3"),
        (("--attack", "badnets(size=9)"), "badnets: size = 9 does not fit into images of 8x8"),
        (("--attack", "badnets(corner='left')"), "badnets: corner = 'left'; there are: bottom_right"),
        (("--attack", "badnets", "--save-images"), "--save-images: say with --out where"),
        (("--attack", "badnets", "--inspection", "neural"), "no inspection 'neural'"),
        (("--attack", "label_flip(source=1)"), "label_flip: source = 1 and to = -1: give both or neither"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(run, arguments, message):
    code, out, said = run(*arguments)
    assert code == 2 and not out and message in said and len(said.splitlines()) == 1


def test_an_evasion_attack_is_sent_to_its_own_verb(run):
    code, _, said = run("--attack", "fgsm", "--budget", "linf(0.1)", "--model", "mlp([16])")
    assert code == 2 and "belongs to 'evasion'" in said and json.dumps("attack")[1:-1] in said


def test_a_poisoning_attack_is_sent_to_its_own_verb(capsys):
    arguments = ("--model", "cnn", "--dataset", "fashion_mnist_mini", "--budget", "rate(0.1)", "--attack", "badnets")
    assert main(["attack", *arguments]) == 2 and "belongs to 'backdoor'; see the verb poison" in capsys.readouterr().err


def test_python_gives_the_record_of_the_command_line(run, tmp_path):
    _, out, _ = run("--attack", "label_flip", "--json")
    record = rb.poison("mlp([16])", 'npz("data.npz")', "label_flip", "rate(0.2)", recipe="sgd(epochs=2, batch_size=16)")
    assert record.id == Record.model_validate_json(out).id
    assert record.metrics == Record.model_validate_json(out).metrics
    with pytest.raises(UserError, match="use attack"):
        rb.poison("mlp([16])", 'npz("data.npz")', "fgsm", "linf(0.1)")
    with pytest.raises(UserError, match="use poison"):
        rb.attack("fashion_mnist/clean/standard", "fashion_mnist_mini", "badnets", "rate(0.1)")
