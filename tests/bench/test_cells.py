"""Cells: one id however they are written, another for all that changes the answer; wrong ones are refused."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from robustbench_jax.bench.cells import Cell, canonical_model, kind_of_model, make_cell
from robustbench_jax.types import UserError

ZOO = "fashion_mnist/linf/pgd_at"
BASE = {"model": ZOO, "dataset": "fashion_mnist_mini", "attack": "pgd", "budget": "linf(8/255)"}


def cell(**changes) -> Cell:
    return make_cell(**BASE | changes)


def test_a_cell_has_one_id_however_its_parts_are_written():
    written = cell(attack=" pgd(40, restarts=1) ", budget="linf(eps=8/255)", dataset="fashion_mnist_mini()")
    assert written == cell()
    assert written.id == cell().id
    assert cell(attack="cascade((fgsm(), pgd))").id == cell(attack="cascade([fgsm, pgd(40)])").id


def test_an_id_is_twelve_hex_digits_and_the_same_in_every_process():
    code = f"from robustbench_jax.bench.cells import Cell; print(Cell(**{cell().model_dump()!r}).id)"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == cell().id
    assert len(cell().id) == 12 and int(cell().id, 16) >= 0


def test_everything_that_changes_the_answer_changes_the_id():
    other = [
        cell(),
        cell(seed=1),
        cell(examples=100),
        cell(split="train"),
        cell(attack="pgd(steps=41)"),
        cell(attack="fgsm"),
        cell(budget="linf(0.1)"),
        cell(budget="l2(8/255)"),
        cell(dataset='npz("a.npz")'),
        cell(model="fashion_mnist/clean/standard"),
        cell(model='checkpoint("a")'),
        cell(model="mlp"),
        cell(model="mlp([8])"),
        cell(model="mlp", defence="gaussian_noise"),
        cell(model="mlp", recipe="sgd(epochs=1)"),
    ]
    assert len({made.id for made in other}) == len(other)


def test_a_cell_read_back_from_json_is_the_same_cell():
    made = cell(model="mlp", defence="gaussian_noise(0.5)", examples=3)
    assert Cell.model_validate_json(made.model_dump_json()) == made
    assert Cell.model_validate_json(made.model_dump_json()).id == made.id
    with pytest.raises(ValidationError):
        Cell(**made.model_dump() | {"eps": 1})
    with pytest.raises(ValidationError):
        made.seed = 1


def test_an_architecture_is_trained_by_the_standard_defence_and_sgd_unless_told():
    assert cell(model="mlp") == cell(model="mlp", defence="standard(0)", recipe="sgd()")
    assert cell(model="mlp").defence == "standard(label_smoothing=0.0)"
    assert cell(model="mlp").recipe.startswith("sgd(epochs=20, batch_size=128, ")


def test_a_trained_model_has_neither_defence_nor_recipe():
    for model in (ZOO, 'checkpoint("dir")'):
        assert cell(model=model).defence == cell(model=model).recipe == ""
        for name, value in (("defence", "standard"), ("recipe", "sgd")):
            with pytest.raises(UserError, match="is trained already; defence and recipe are for"):
                cell(model=model, **{name: value})


def test_models_are_told_apart_by_kind():
    assert kind_of_model(ZOO) is None
    assert kind_of_model('checkpoint("dir")') == "pretrained"
    assert kind_of_model("mlp([8])") == "model"
    assert canonical_model(ZOO) == ZOO
    assert canonical_model("mlp") == "mlp(widths=[256, 256])"


def test_labels_are_short():
    made = cell(model="mlp([8])", defence="gaussian_noise(0.5)", attack="pgd(steps=40, restarts=2)")
    assert made.victim == "mlp([8]) + gaussian_noise(0.5)"
    assert made.label() == "mlp([8]) + gaussian_noise(0.5) · pgd(restarts=2) · linf(8/255)"
    assert cell().label() == f"{ZOO} · pgd · linf(8/255)"


def test_a_cell_of_something_that_this_version_lacks_still_has_a_label():
    old = Cell(dataset="old(a=1)", model="gone(b=2)", attack="lost(c=3)", budget="linf(eps=0.1)")
    assert old.show("dataset") == "old(a=1)"
    assert old.show("attack") == "lost(c=3)"
    assert old.label() == "gone(b=2) · lost(c=3) · linf(0.1)"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"atack": "pgd"}, "no field 'atack' in a cell; did you mean 'attack'"),
        ({"attack": None}, "attack = None must be a call string"),
        ({"budget": 0.1}, "budget = 0.1 must be a call string"),
        ({"attack": ""}, "'' is no call string"),
        ({"attack": "pdg"}, "no attack 'pdg'; did you mean 'pgd'"),
        ({"attack": "pgd(steps=0)"}, "steps = 0 must be greater than 0"),
        ({"attack": "linf(0.1)"}, "no attack 'linf'"),
        ({"budget": "lnf(0.1)"}, "no budget 'lnf'; did you mean 'linf'"),
        ({"budget": "linf(-8/255)"}, "eps = -0.03"),
        ({"budget": "linf(-0.1)"}, "eps = -0.1 must be a finite number of at least 0"),
        ({"budget": "linf"}, "budget 'linf' needs 'eps'"),
        ({"dataset": "fashion_mnst"}, "no dataset 'fashion_mnst'; did you mean 'fashion_mnist'"),
        ({"model": "mpl"}, "no model 'mpl'; did you mean 'mlp'"),
        ({"model": "fashion_mnist/linf/pgd_ta"}, f"no model .* in the zoo; did you mean '{ZOO}'"),
        ({"model": "checkpoint"}, "pretrained 'checkpoint' needs 'path'"),
        ({"model": "mlp(width=[8])"}, "model 'mlp' has no argument 'width'; did you mean 'widths'"),
        ({"model": "mlp", "defence": "standrd"}, "no training 'standrd'; did you mean 'standard'"),
        ({"model": "mlp", "recipe": "sdg"}, "no recipe 'sdg'; did you mean 'sgd'"),
        ({"model": "mlp", "recipe": "sgd(epochs=-1)"}, "epochs = -1 must be greater than 0"),
        ({"threat": "evasoin"}, "no threat 'evasoin'; did you mean 'evasion'"),
        ({"split": "validation"}, "split = 'validation' must be train or test"),
        ({"examples": 0}, "examples = 0 must be a whole number of at least 1"),
        ({"examples": 2.5}, "examples = 2.5 must be a whole number"),
        ({"examples": True}, "examples = True must be a whole number"),
        ({"examples": "10"}, "examples = '10' must be a whole number"),
        ({"seed": -1}, "seed = -1 must be a whole number of at least 0"),
        ({"seed": None}, "seed = None must be a whole number of at least 0"),
        ({"seed": 2**32}, "seed = 4294967296 is too large; at most 4294967295"),
    ],
)
def test_what_cannot_be_run_is_refused_before_it_becomes_a_cell(changes, message):
    with pytest.raises(UserError, match=message):
        cell(**changes)


@pytest.mark.parametrize("missing", ["model", "dataset", "attack", "budget"])
def test_a_cell_without_a_part_is_refused_with_its_name(missing):
    named = "attack or certifier" if missing == "attack" else missing
    with pytest.raises(UserError, match=f"^{named} is missing$"):
        make_cell(**{name: text for name, text in BASE.items() if name != missing})
