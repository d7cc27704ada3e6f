"""Sealed and signed models: the right secret and key give the model bit by bit, anything else gives none."""

import json
import shutil

import jax
import numpy as np
import pytest

from robustbench_jax import sealing, signing
from robustbench_jax.bench import workshop
from robustbench_jax.cli import main
from robustbench_jax.models import build_model, files, sealed, signed
from robustbench_jax.registry import build, canonical
from robustbench_jax.sealing import Secret
from robustbench_jax.types import UserError

ARCH, SHAPE, CLASSES = "mlp([3])", (2, 2, 1), 2
KEY = Secret(key=bytes(range(32)))
HEX, WORDS = KEY.key.hex(), "a password nobody knows"


@pytest.fixture(scope="module")
def model():
    made = build_model(ARCH, SHAPE, CLASSES, jax.random.key(3))
    return made, files.describe(made, ARCH, SHAPE, CLASSES, run={"seed": 3})


@pytest.fixture
def place(tmp_path, monkeypatch, model):
    """A directory with the model directory `dir`, key pairs me and other, and no secret in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in (sealing.KEY, sealing.PASSWORD, signing.PASSWORD):
        monkeypatch.delenv(name, raising=False)
    files.save("dir", *model)
    for name in ("me", "other"):
        signing.new_key(name)
    return tmp_path


def same(found, model):
    assert found.net == model.net
    for name, value in model.params.items():
        np.testing.assert_array_equal(found.params[name], value)


def test_a_sealed_model_comes_back_bit_by_bit_with_its_description(place, model, monkeypatch):
    sealed.save("f", *model, KEY)
    monkeypatch.setenv(sealing.KEY, HEX)
    classifier, description = build("pretrained", 'sealed("f")').load()
    same(classifier, model[0])
    assert description == model[1]
    assert canonical("pretrained", 'sealed("f")') == "sealed(path='f')"


def test_nothing_of_the_model_can_be_read_in_the_file(place, model):
    sealed.save("f", *model, KEY)
    content = (place / "f").read_bytes()
    arrays = [np.asarray(value).tobytes() for value in model[0].params.values()]
    for known in (b"mlp", b"architecture", b"safetensors", b"float32", b"F32", *arrays):
        assert known not in content


def test_every_flipped_byte_of_a_sealed_model_is_an_error_and_never_a_model(place, model):
    sealed.save("f", *model, KEY)
    whole = (place / "f").read_bytes()
    for at in range(len(whole)):
        (place / "f").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError):
            sealed.load("f", KEY)


def test_a_wrong_key_a_missing_one_and_a_missing_file_are_errors(place, model, monkeypatch):
    sealed.save("f", *model, KEY)
    with pytest.raises(UserError, match="the password or key is wrong"):
        sealed.load("f", Secret(key=bytes(32)))
    with pytest.raises(UserError, match="ROBUSTBENCH_SEAL_KEY must hold 64"):
        sealed.load("f")
    with pytest.raises(UserError, match="cannot read g"):
        sealed.load("g", KEY)


def test_a_model_that_its_description_would_not_build_is_not_sealed(place, model):
    with pytest.raises(UserError, match="the model does not fit the architecture"):
        sealed.save("f", model[0], model[1] | {"architecture": "mlp([4])"}, KEY)
    with pytest.raises(UserError, match="the model is damaged"):
        sealed.save("f", model[0], model[1] | {"weights": "0" * 64}, KEY)
    with pytest.raises(UserError, match="the model is not what its description"):
        sealed.save("f", model[0].replace(net=str), model[1], KEY)
    with pytest.raises(UserError, match="does not say architecture, weights"):
        sealed.save("f", model[0], {"shape": [1], "classes": 2}, KEY)
    assert not (place / "f").exists()


def test_sealed_bytes_that_hold_no_model_are_an_error(place):
    for data in (b"", b"\0" * 8, b"\0" * 7 + b"\2{}", b"\xff" * 20, b"\0" * 7 + b"\1" + b"3"):
        (place / "f").write_bytes(sealing.seal(data, KEY))
        with pytest.raises(UserError):
            sealed.load("f", KEY)


def test_the_verbs_seal_and_unseal(place, model, monkeypatch, capsys):
    monkeypatch.setenv(sealing.PASSWORD, WORDS)
    monkeypatch.setattr(sealing, "COST", (10, 8, 1))
    assert main(["seal", "--model", 'checkpoint("dir")', "--out", "f"]) == 0
    assert main(["seal", "--unseal", "f", "--out", "again"]) == 0
    same(files.load("again")[0], model[0])
    monkeypatch.setenv(sealing.PASSWORD, "another password")
    assert main(["seal", "--unseal", "f", "--out", "third"]) == 2
    said = capsys.readouterr().err
    assert "the password or key is wrong" in said and not (place / "third").exists()
    assert WORDS not in said and "another password" not in said


def test_a_record_of_a_sealed_model_holds_no_secret(place, monkeypatch, capsys):
    monkeypatch.setenv(sealing.KEY, HEX)
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (8, *SHAPE), np.uint8) for split in ("train", "test")}
    np.savez("d.npz", **arrays, y_train=np.arange(8) % 2, y_test=np.arange(8) % 2, classes=["a", "b"])
    assert main(["seal", "--model", 'checkpoint("dir")', "--out", "f", "--sign", "me"]) == 0
    run = ["attack", "--dataset", 'npz("d.npz")', "--attack", "fgsm", "--budget", "linf(0.1)", "--out", "out", "--json"]
    assert main([*run, "--model", 'signed(sealed("f"), "me.pub")']) == 0
    written = [path for path in (place / "out").rglob("*") if path.is_file()]
    assert written and all(HEX.encode() not in path.read_bytes() for path in written)
    said = capsys.readouterr()
    assert HEX not in said.out + said.err and "signed(model=sealed(path='f'), key='me.pub')" in said.out


def test_a_signed_model_is_loaded_under_its_key_alone(place, model, capsys):
    assert main(["sign", "dir", "--key", "me"]) == 0
    assert """--model 'signed(checkpoint("dir"), "me.pub")'""" in capsys.readouterr().err
    classifier, _ = build("pretrained", 'signed(checkpoint("dir"), "me.pub")').load()
    same(classifier, model[0])
    same(build("pretrained", 'checkpoint("dir")').load()[0], model[0])
    with pytest.raises(UserError, match="dir: the signature is not of this key, or the model was changed"):
        build("pretrained", 'signed(checkpoint("dir"), "other.pub")').load()
    assert main(["sign", "dir", "--public", "me.pub"]) == 0
    assert main(["sign", "dir", "--public", "other.pub"]) == 1


def test_a_signature_is_ed25519_over_the_description(place, model):
    main(["sign", "dir", "--key", "me"])
    description = json.loads((place / "dir" / "model.json").read_text())
    signature = bytes.fromhex(description.pop("signature"))
    said = json.dumps(description, sort_keys=True, separators=(",", ":")).encode()
    signing.public_key("me.pub").verify(signature, said)
    assert description["weights"] == files.digest(model[0].params)


def test_an_unsigned_model_is_refused_where_a_signature_is_wanted(place):
    with pytest.raises(UserError, match="dir is not signed; sign it with: robustbench-jax sign"):
        build("pretrained", 'signed(checkpoint("dir"), "me.pub")').load()
    assert main(["sign", "dir", "--public", "me.pub"]) == 1


@pytest.mark.parametrize("field, value", [("classes", 3), ("run", {"seed": 4}), ("signature", "00" * 64), ("more", 1)])
def test_any_change_of_a_signed_description_is_refused(place, field, value):
    main(["sign", "dir", "--key", "me"])
    path = place / "dir" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError):
        build("pretrained", 'signed(checkpoint("dir"), "me.pub")').load()


def test_other_weights_with_the_description_of_signed_ones_are_refused(place):
    """The weights are exchanged, and their hash in the description too, or not."""
    main(["sign", "dir", "--key", "me"])
    other = build_model(ARCH, SHAPE, CLASSES, jax.random.key(4))
    files.save("eve", other, files.describe(other, ARCH, SHAPE, CLASSES))
    shutil.rmtree("dir/arrays")
    shutil.copytree("eve/arrays", "dir/arrays")
    with pytest.raises(UserError, match="dir is damaged"):
        build("pretrained", 'signed(checkpoint("dir"), "me.pub")').load()
    path = place / "dir" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": files.digest(other.params)}))
    with pytest.raises(UserError, match="or the model was changed"):
        build("pretrained", 'signed(checkpoint("dir"), "me.pub")').load()


def test_a_model_that_loads_other_arrays_than_it_says_is_refused(model):
    """Whatever kind of model is wrapped, its arrays are looked at."""
    key = signing.Ed25519PrivateKey.generate()

    class Lying:
        def load(self):
            other = build_model(ARCH, SHAPE, CLASSES, jax.random.key(5))
            return other, signed.with_signature(model[1], key)

    made = signed.Signed(Lying(), "me.pub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing, "public_key", lambda path: key.public_key())
        with pytest.raises(UserError, match="the arrays are not those that me.pub signed"):
            made.load()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("seal", "--out", "f"), "give --model to seal a model, or --unseal"),
        (("seal", "--model", "cnn", "--unseal", "f", "--out", "f"), "give --model to seal a model, or --unseal"),
        (("seal", "--model", 'checkpoint("dir")'), "arguments are required: --out"),
        (("seal", "--model", 'checkpoint("dir")', "--out", "f"), "there is no password"),
        (("seal", "--unseal", "no", "--out", "f"), "cannot read no"),
        (("seal", "--unseal", "no", "--out", "f", "--sign", "me"), "--sign goes with --model"),
        (("sign", "dir"), "give --key to sign, or --public to check"),
        (("sign", "no", "--key", "me"), "there is no checkpoint directory 'no'"),
        (("sign", "dir", "--key", "me.pub"), "is no private key"),
        (("sign", "dir", "--keys", "me"), "did you mean '--key'?"),
    ],
)
def test_wrong_input_is_one_line(place, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.stdin", None)
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1


def test_what_is_of_no_architecture_of_this_package_is_not_sealed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(sealing.KEY, "ab" * 32)
    monkeypatch.setattr(workshop, "load_trained", lambda text: (None, {"architecture": "onnx"}))
    assert main(["seal", "--model", 'onnx("m.onnx")', "--out", str(tmp_path / "f")]) == 2
    said = capsys.readouterr().err
    assert 'onnx("m.onnx"): only a model of an architecture of this package can be sealed' in said
    assert not (tmp_path / "f").exists()
