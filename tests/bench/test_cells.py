"""Cells: one id however they are written, another for all that changes the answer; wrong ones are refused."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from robustbench_jax.bench.cells import Cell, canonical_model, kind_of_model, make_cell, with_timeout
from robustbench_jax.types import UserError
from tests.certify import oracle

ZOO = "fashion_mnist/linf/pgd_at"
BASE = {"model": ZOO, "dataset": "fashion_mnist_mini", "attack": "pgd", "budget": "linf(8/255)"}


def cell(**changes) -> Cell:
    return make_cell(**BASE | changes)


def certified(**changes) -> Cell:
    return make_cell(**{name: text for name, text in BASE.items() if name != "attack"} | changes)


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


def test_ids_of_attacks_are_those_that_they_had_before_there_were_certifiers():
    assert cell(attack="pgd").id == "fc114332e087"
    assert cell(attack="autoattack").id == "d3dc0a972aa9"
    assert cell(attack="autoattack('fast')", seed=3).id == "7a0335abeb48"


def test_a_cell_has_a_certifier_instead_of_an_attack():
    with oracle.registered():
        made = certified(certifier="exact_linear(0.5)")
        assert (made.threat, made.attack) == ("certification", "")
        assert made.certifier == "exact_linear(share=0.5, timeout=10.0)"
        assert made.method == "exact_linear(0.5)" and made.label() == f"{ZOO} · exact_linear(0.5) · linf(8/255)"
        assert made.id == certified(certifier="exact_linear(share=0.5)").id != certified(certifier="exact_linear").id
        assert Cell.model_validate_json(made.model_dump_json()) == made
        assert certified(certifier="exact_linear", budget="l1(1)").budget == "l1(eps=1.0)"
    assert made.method == "exact_linear(share=0.5, timeout=10.0)"  # as this version does not have it


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attack": "pgd"}, "attack = 'pgd' and certifier = 'exact_linear': a cell has one of them"),
        ({"certifier": "exact_liner"}, "no certifier 'exact_liner'; did you mean 'exact_linear'"),
        ({"certifier": "exact_linear(part=1)"}, "certifier 'exact_linear' has no argument 'part'"),
        ({"certifier": "pgd"}, "no certifier 'pgd'"),
        ({"certifier": ""}, "'' is no call string"),
        ({"certifier": 3}, "certifier = 3 must be a call string"),
        ({"certifier": "shy_linear", "budget": "l2(0.1)"}, "certifier 'shy_linear' takes no budget 'l2'"),
        ({"threat": "evasion"}, "threat = 'evasion': certifier 'exact_linear' belongs to 'certification'"),
        ({"model": "mlp", "recipe": "sdg"}, "no recipe 'sdg'"),
    ],
)
def test_a_certifier_that_cannot_be_run_is_refused(changes, message):
    with oracle.registered(), pytest.raises(UserError, match=message):
        certified(**{"certifier": "exact_linear"} | changes)


def test_a_timeout_is_written_into_the_certifiers_that_have_one():
    with oracle.registered():
        assert with_timeout("exact_linear", 2) == "exact_linear(share=1.0, timeout=2.0)"
        for text, message in (
            ("shy_linear(0.5, 3)", "says its own timeout"),
            ("exact_linear(timeout=3)", "says its own timeout"),
            ("randomized_smoothing", "'randomized_smoothing' has no timeout; those that have: .*exact_linear"),
        ):
            with pytest.raises(UserError, match=message):
                with_timeout(text, 2)


def test_autoattack_with_a_certifier_is_another_attack():
    with oracle.registered():
        spared = cell(attack="autoattack(certify_first=exact_linear)")
        assert spared.attack == ("autoattack(version='standard', certify_first=exact_linear(share=1.0, timeout=10.0))")
        assert spared.show("attack") == "autoattack(certify_first=exact_linear)"
        assert cell(attack="autoattack(certify_first='exact_linear')").id == spared.id
        for text, budget, message in (
            ("autoattack(certify_first=shy_linear)", "l2(0.1)", "takes no budget 'l2'"),
            ("autoattack(certify_first=smoothed_linear)", "l2(0.1)", "proves nothing of the model itself"),
            ("autoattack(certify_first=pgd)", "l2(0.1)", "no certifier 'pgd'"),
            ("cascade([autoattack(certify_first=exact_linear)])", "l2(0.1)", "which only autoattack by itself heeds"),
        ):
            with pytest.raises(UserError, match=message):
                cell(attack=text, budget=budget)


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
        (
            {"model": "Carmon2019Unlabeled"},
            'write robustbench."Carmon2019Unlabeled", dataset="cifar10", threat="linf".',
        ),
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
