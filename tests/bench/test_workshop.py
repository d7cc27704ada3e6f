"""The workshop: what a model's description says of its training, and seeds that are trained as one stack."""

import json

import numpy as np
import pytest

from robustbench_jax.bench import victims
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.bench.workshop import Workshop
from robustbench_jax.models import files
from robustbench_jax.types import Dataset, UserError

RECIPE = "sgd(epochs=2, batch_size=8, holdout=8)"
DATA = Dataset(np.zeros((16, 4, 4, 1), np.uint8), np.arange(16, dtype=np.int32) % 2, ("a", "b"), "black")


@pytest.fixture
def cells(tmp_path):
    """Three seeds of one small training on images of noise."""
    rng = np.random.default_rng(0)
    arrays = {"x": rng.integers(0, 256, (32, 4, 4, 1), np.uint8), "y": np.arange(32) % 2, "classes": ["a", "b"]}
    np.savez(tmp_path / "data.npz", **arrays)
    fields = {"model": "mlp([8])", "recipe": RECIPE, "dataset": f'npz("{tmp_path}/data.npz")'}
    return [make_cell(**fields, attack="pgd(2)", budget="linf(0.1)", seed=seed) for seed in range(3)]


def descriptions(directory) -> dict:
    """By the name of the victim's directory."""
    found = {path.parent.parent.name: json.loads(path.read_text()) for path in directory.glob("*/model/model.json")}
    assert sorted(found) == sorted(path.name for path in directory.iterdir())
    return found


def test_seeds_that_are_expected_are_trained_together_and_stored_as_each_alone(tmp_path, cells):
    alone, together = Workshop(tmp_path / "alone"), Workshop(tmp_path / "together")
    together.expect(cells)
    for cell in cells:
        ours, theirs = together.victim(cell), alone.victim(cell)
        for name, value in theirs.params.items():
            np.testing.assert_allclose(ours.params[name], value, rtol=1e-4, atol=1e-6)
    one, many = descriptions(tmp_path / "alone"), descriptions(tmp_path / "together")
    assert sorted(one) == sorted(many) and len(one) == 3
    for name, description in many.items():
        assert description["run"] == one[name]["run"] and description["training"]["together"] == 3
        assert one[name]["training"]["together"] == 1
        assert description["curve"]["clean"] == one[name]["curve"]["clean"]


def test_a_stack_that_was_killed_goes_on_where_it_was(tmp_path, cells):
    def stop(what, progress):
        if progress.step >= 6:
            raise KeyboardInterrupt

    workshop = Workshop(tmp_path / "victims", stop)
    workshop.expect(cells)
    with pytest.raises(KeyboardInterrupt):
        workshop.victim(cells[0])
    again = Workshop(tmp_path / "victims")
    again.expect(cells)
    again.victim(cells[1])
    assert [d["training"]["steps"] for d in descriptions(tmp_path / "victims").values()] == [3, 3, 3]


def test_those_that_have_not_begun_are_trained_together_unless_an_attack_perturbs_the_images(
    tmp_path, cells, monkeypatch
):
    told = []
    monkeypatch.setattr(victims, "fit_many_with_curves", lambda keys, *_, **__: told.append(len(keys)) or 1 / 0)
    workshop = Workshop(tmp_path / "victims")
    workshop.victim(cells[0])
    workshop.expect(cells)
    with pytest.raises(ZeroDivisionError):
        workshop.victim(cells[1])
    attacked = "adversarial_training(pgd(steps=1), linf(0.1))"
    others = [cell.model_copy(update={"defence": attacked}) for cell in cells]
    workshop.expect(others)
    workshop.victim(others[0])
    assert told == [2]


def test_what_is_wrong_with_a_stack_is_left_to_each_model_alone(tmp_path, cells):
    diverging = RECIPE.replace("epochs=2", "epochs=2, learning_rate=1e30, schedule='constant'")
    cells = [cell.model_copy(update={"recipe": diverging}) for cell in cells]
    workshop = Workshop(tmp_path / "victims")
    workshop.expect(cells)
    with pytest.raises(UserError, match="lower the learning rate"):
        workshop.victim(cells[0])
    assert not list((tmp_path / "victims").glob("stack-*"))


def test_the_description_has_the_curve_and_what_training_took(tmp_path, cells):
    cell = cells[0].model_copy(update={"defence": "adversarial_training(pgd(steps=2), linf(0.1))"})
    Workshop(tmp_path / "victims").victim(cell)
    ((name, description),) = descriptions(tmp_path / "victims").items()
    curve, took = description["curve"], description["training"]
    assert [len(curve[column]) for column in ("loss", "accuracy", "clean", "robust")] == [2, 2, 2, 2]
    assert curve["kept"] == 2 and curve["held"] == 8 and "flags" not in description
    assert took["steps"] == 6 and took["step_s"] == pytest.approx(took["run_s"] / 6, abs=1e-3)
    assert files.load(tmp_path / "victims" / name)[1] == description


def test_a_model_that_is_refused_leaves_nothing_behind(tmp_path, cells):
    workshop = Workshop(tmp_path / "victims")
    with pytest.raises(UserError, match="cnn: images of .* are too small"):
        workshop.victim(cells[0].model_copy(update={"model": "cnn([[4, 99, 1]])"}))
    assert not list((tmp_path / "victims").glob("*"))


def test_notes_of_another_run_and_notes_that_cannot_be_read_are_told_apart(tmp_path):
    what, data = victims.run_of("mlp([4])", "standard", RECIPE, "noise", DATA, 0), DATA
    victims._claim(tmp_path, what)
    victims._claim(tmp_path, what)
    with pytest.raises(UserError, match="holds another run: seed = 0, not 1; choose another --out"):
        victims.train(what | {"seed": 1}, data, tmp_path, lambda progress: None)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="run.json cannot be read; delete .* to train anew"):
        victims.train(what, data, tmp_path, lambda progress: None)
