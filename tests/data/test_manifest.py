"""Manifests: whatever is changed after the signature, one bit of it, is refused and named."""

import json

import numpy as np
import pytest

from robustbench_jax import signing
from robustbench_jax.cli import main
from robustbench_jax.data import load_dataset
from robustbench_jax.data import manifest as manifests
from robustbench_jax.types import UserError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with data.npz, a key pair and a signed manifest."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (20, 4, 4, 1), np.uint8) for split in ("train", "test")}
    arrays |= {f"y_{split}": np.arange(20) % 4 for split in ("train", "test")}
    np.savez("data.npz", **arrays, classes=list("abcd"))
    assert main(["manifest", "--new-key", "me"]) == 0
    assert main(["manifest", "--dataset", 'npz("data.npz")', "--key", "me", "--out", "m.json"]) == 0
    return arrays


def write(arrays, **changes):
    np.savez("data.npz", **arrays | changes, classes=list("abcd"))


def verified(split="train"):
    return load_dataset('verified(npz("data.npz"), manifest="m.json", key="me.pub")', split)


def verify():
    return main(["manifest", "--dataset", 'npz("data.npz")', "--verify", "m.json", "--public", "me.pub"])


def test_what_was_vouched_for_is_loaded(place):
    np.testing.assert_array_equal(verified().x, place["x_train"])
    assert verify() == 0


def test_one_flipped_bit_of_an_image_is_refused_and_its_row_named(place, capsys):
    x = place["x_train"].copy()
    x[7, 2, 1, 0] ^= 1
    write(place, x_train=x)
    with pytest.raises(UserError, match=r"train: 1 rows differ \(7\)"):
        verified()
    assert len(verified("test")) == 20  # the other split is as it was
    assert verify() == 1 and "DIFFERS train: 1 rows differ (7)" in capsys.readouterr().err


def test_a_label_is_part_of_its_example(place):
    y = place["y_train"].copy()
    y[[3, 4]] = y[[4, 3]]
    write(place, y_train=y)
    with pytest.raises(UserError, match=r"2 rows differ \(3, 4\)"):
        verified()


def test_rows_that_were_added_or_are_missing_are_counted(place):
    write(place, x_train=place["x_train"][:18], y_train=place["y_train"][:18])
    with pytest.raises(UserError, match="2 rows are missing"):
        verified()
    more = {name: np.concatenate([place[name], place[name][:3]]) for name in ("x_train", "y_train")}
    write(place, **more)
    with pytest.raises(UserError, match="3 rows were added"):
        verified()


def test_a_manifest_that_was_edited_is_refused(place):
    content = json.loads(open("m.json").read())
    content["splits"]["train"]["examples"][0] = "0" * 64
    open("m.json", "w").write(json.dumps(content))
    with pytest.raises(UserError, match="the signature is not of this key, or the manifest was changed"):
        verified()


def test_a_signature_with_one_bit_flipped_or_none_or_anothers_is_refused(place):
    content = json.loads(open("m.json").read())
    bad = content | {"signature": f"{int(content['signature'][0], 16) ^ 1:x}" + content["signature"][1:]}
    without = {name: value for name, value in content.items() if name != "signature"}
    for wrong, message in ((bad, "is not of this key"), (without, "is not signed")):
        open("m.json", "w").write(json.dumps(wrong))
        with pytest.raises(UserError, match=message):
            verified()
    open("m.json", "w").write(json.dumps(content))
    assert main(["manifest", "--new-key", "other"]) == 0
    with pytest.raises(UserError, match="is not of this key"):
        load_dataset('verified(npz("data.npz"), manifest="m.json", key="other.pub")', "train")


def test_a_training_run_on_data_that_do_not_verify_does_not_begin(place, capsys):
    write(place, y_train=(place["y_train"] + 1) % 4)
    text = 'verified(npz("data.npz"), manifest="m.json", key="me.pub")'
    code = main(["train", "--dataset", text, "--model", "mlp([4])", "--out", "model"])
    assert code == 2 and "does not vouch for these data: train: 20 rows differ" in capsys.readouterr().err


def test_a_key_may_have_a_password_and_needs_it(tmp_path):
    signing.new_key(tmp_path / "k", "secret")
    assert signing.private_key(tmp_path / "k", "secret").sign(b"x")
    for wrong in ("", "other"):
        with pytest.raises(UserError, match="the password is wrong"):
            signing.private_key(tmp_path / "k", wrong)
    with pytest.raises(UserError, match="keys are not overwritten"):
        signing.new_key(tmp_path / "k")


def test_duplicates_and_contradictions_are_counted(place):
    data = load_dataset('npz("data.npz")', "train")
    x = np.concatenate([data.x, data.x[:3]])
    again = type(data)(x, np.concatenate([data.y, [data.y[0], 3, 3]]), data.classes, "again")
    assert manifests.report(again) == {"duplicates": 3, "label_conflicts": 2}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--dataset", 'npz("data.npz")'), "give --key and --out to sign"),
        (("--dataset", 'npz("data.npz")', "--verify", "m.json"), "say with --public whose key"),
        (("--dataset", 'npz("data.npz")', "--verify", "no.json", "--public", "me.pub"), "cannot read no.json"),
        (("--dataset", 'npz("data.npz")', "--key", "m.json", "--out", "n.json"), "is no private key"),
        (("--dataset", 'npz("data.npz")', "--against", "fashion_mnist_mini"), "drift: images"),
        ((), "the following arguments are required: --dataset"),
    ],
)
def test_wrong_input_is_one_line(place, capsys, arguments, message):
    capsys.readouterr()
    assert main(["manifest", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
