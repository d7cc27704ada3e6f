"""Classifiers on disk: both forms give back what was saved, and anything else is one line that names it."""

import json
import shutil

import jax
import numpy as np
import pytest

from robustbench_jax.models import build_model, files
from robustbench_jax.types import UserError

ARCH, SHAPE, CLASSES = "cnn(convolutions=[[4, 3, 2]], dense=[8])", (8, 6, 3), 5


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, its description, a directory `model` with it, and the pair small.safetensors and small.json."""
    root = tmp_path_factory.mktemp("saved")
    model = build_model(ARCH, SHAPE, CLASSES, jax.random.key(3))
    description = files.describe(model, ARCH, SHAPE, CLASSES, run={"seed": 3})
    files.save(root / "model", model, description)
    files.save_file_pair(root / "small", model, description)
    return model, description, root


@pytest.fixture
def copy(saved, tmp_path):
    """The saved files, to be spoiled."""
    shutil.copytree(saved[2], tmp_path / "copy")
    return tmp_path / "copy"


def load_directory(root):
    return files.load(root / "model")


def load_pair(root):
    return files.load_file_pair(root / "small")


FORMS = pytest.mark.parametrize("load, note", [(load_directory, "model/model.json"), (load_pair, "small.json")])


def refusal(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(path, **fields) -> None:
    """Other values in a JSON file; None takes one out."""
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


@FORMS
def test_what_was_saved_comes_back_bit_by_bit(load, note, saved):
    model, description, root = saved
    again, told = load(root)
    assert told == description
    assert again.net == model.net and list(again.params) == list(model.params)
    for name, value in model.params.items():
        assert again.params[name].dtype == value.dtype
        np.testing.assert_array_equal(again.params[name], value, err_msg=name)
    x = np.random.default_rng(0).random((2, *SHAPE)).astype(np.float32)
    np.testing.assert_array_equal(jax.vmap(again)(x), jax.vmap(model)(x))


def test_a_run_directory_is_loaded_through_its_folder_model(saved):
    assert files.load(saved[2])[1] == saved[1]


def test_the_digest_changes_with_every_name_shape_type_and_bit():
    base = {"a": np.array([1, 2], np.float32), "b": np.zeros((2, 2), np.float32)}
    others = [
        base | {"a": np.array([1, np.nextafter(np.float32(2), np.float32(3))], np.float32)},
        base | {"a": np.array([[1, 2]], np.float32)},
        base | {"b": np.zeros((2, 2), np.int32)},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"]},
    ]
    assert len({files.digest(it) for it in (base, *others)}) == 6
    assert files.digest(dict(reversed(base.items()))) == files.digest(base)


def test_saving_again_replaces_the_model_and_leaves_nothing_else(saved, tmp_path):
    model, description, _ = saved
    files.save(tmp_path / "m", model, description)
    other = build_model(ARCH, SHAPE, CLASSES, jax.random.key(4))
    files.save(tmp_path / "m", other, files.describe(other, ARCH, SHAPE, CLASSES))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert files.load(tmp_path / "m")[1]["weights"] == files.digest(other.params)


def test_a_place_that_cannot_be_written_is_an_error(saved, tmp_path):
    (tmp_path / "file").write_text("")
    assert "could not write the model" in refusal(files.save, tmp_path / "file" / "m", *saved[:2])


@FORMS
@pytest.mark.parametrize("part", [0, 0.5, 0.95])
def test_a_description_that_is_cut_short_is_an_error(load, note, part, copy):
    content = (copy / note).read_text()
    (copy / note).write_text(content[: int(part * len(content))])
    assert "cut short or no JSON" in refusal(load, copy)


@FORMS
@pytest.mark.parametrize("name", files.REQUIRED)
def test_a_description_without_a_field_is_an_error_that_names_it(load, note, name, copy):
    change(copy / note, **{name: None})
    assert refusal(load, copy).endswith(f"does not say {name}")


@FORMS
def test_somebody_elses_json_is_an_error_that_names_what_it_lacks(load, note, copy):
    (copy / note).write_text('{"epochs": 3}')
    assert "does not say architecture, shape, classes, weights" in refusal(load, copy)


@FORMS
@pytest.mark.parametrize(
    "fields, said",
    [
        ({"architecture": "renset20"}, "did you mean 'resnet20'?"),
        ({"architecture": "mlp"}, "fit"),
        ({"architecture": "cnn(convolutions=[[4, 3, 2]], dense=[9])"}, "fit"),
        ({"classes": 6}, "fit"),
        ({"shape": [8, 8, 3]}, "fit"),
        ({"weights": "0" * 64}, "do not have the SHA-256"),
    ],
    ids=str,
)
def test_a_description_of_another_model_is_an_error(load, note, fields, said, copy):
    change(copy / note, **fields)
    assert said in refusal(load, copy)


def test_weights_that_were_changed_are_an_error(saved, copy):
    model, description, _ = saved
    changed = model.params | {"head/bias": model.params["head/bias"] + 1}
    files.save_file_pair(copy / "small", model.replace(params=changed), description)
    assert "do not have the SHA-256" in refusal(load_pair, copy)
    files.save(copy / "model", model.replace(params=changed), description)
    assert "do not have the SHA-256" in refusal(load_directory, copy)


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_safetensors_that_are_cut_short_are_an_error(part, copy):
    path = copy / "small.safetensors"
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert "small.safetensors: " in refusal(load_pair, copy)


def test_arrays_that_are_cut_short_or_gone_are_an_error(copy):
    largest = max(
        (p for p in (copy / "model" / files.ARRAYS).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    assert "is damaged" in refusal(load_directory, copy)
    shutil.rmtree(copy / "model" / files.ARRAYS)
    assert "is damaged" in refusal(load_directory, copy)


def test_files_that_are_not_there_are_named(tmp_path, copy):
    assert "there is no checkpoint directory" in refusal(files.load, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "holds no model: model.json is missing" in refusal(files.load, tmp_path / "empty")
    (copy / "small.safetensors").unlink()
    assert "small.safetensors" in refusal(load_pair, copy)
    (copy / "small.json").unlink()
    assert "small.json is missing" in refusal(load_pair, copy)
