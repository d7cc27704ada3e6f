"""Citations: what is cited for a cell, for call strings and for results, and what `cite` prints."""

import pytest

from robustbench_jax.bench import records
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.bench.citations import cite, papers
from robustbench_jax.cli import main
from robustbench_jax.references import SUITE, references
from robustbench_jax.types import UserError
from tests.bench.made_up import first, made_up


@pytest.fixture
def run(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return main(["cite", *arguments]), *capsys.readouterr()

    return call


def test_a_call_string_is_cited_with_all_its_parts_and_the_benchmark():
    found = cite(["adversarial_training(pgd(steps=7), linf(0.1))", "targeted(fgsm)"])
    assert found.keys == ["carlini2017", "goodfellow2015", "madry2018", SUITE]
    assert found.used["madry2018"] == ["training adversarial_training", "attack pgd"]
    assert found.used["goodfellow2015"] == ["budget linf", "attack fgsm"]
    assert found.doubts == []


def test_a_name_of_several_kinds_is_all_of_them_where_the_arguments_fit():
    assert cite(["crown_ibp"]).used["zhang2020"] == ["certifier crown_ibp", "training crown_ibp"]
    assert cite(["gaussian_noise(sigma=0.25)"]).keys == ["cohen2019", SUITE]


def test_what_has_no_paper_leaves_the_benchmark_alone():
    assert cite(["mlp"]).keys == [SUITE]


def test_a_shipped_model_is_cited_with_what_it_was_made_of():
    found = cite(["fashion_mnist/linf/pgd_at"]).used
    assert found["xiao2017"] == ["dataset fashion_mnist"] and "training adversarial_training" in found["madry2018"]


def test_a_model_of_robustbench_is_cited_with_its_own_paper():
    found = cite(['robustbench("Gowal2020Uncovering", threat="l2")']).used
    assert found["gowal2020"] == ["model Gowal2020Uncovering"] and "croce2021robustbench" in found


def test_a_cell_names_the_papers_of_its_model_and_of_its_threat():
    cell = make_cell(model="resnet20", dataset="cifar10", attack="fog", budget="severity(3)")
    assert papers(cell) == ["hendrycks2019", "krizhevsky2009", "he2016"]


def test_results_are_cited_once_in_the_order_of_keys_with_what_used_them(run, tmp_path):
    for number, attack in enumerate(("pgd(steps=3)", "pgd(steps=5)", "square")):
        records.write(tmp_path, made_up(first(60), attack=attack, seed=number))
    code, out, err = run(str(tmp_path))
    assert (code, err) == (0, "")
    keys = [line.split("{")[1].rstrip(",") for line in out.splitlines() if line.startswith("@")]
    assert keys == sorted(set(keys)) and {"madry2018", "andriushchenko2020", "xiao2017", SUITE} <= set(keys)
    assert "% attack pgd\n" + references()["madry2018"].text in out
    assert run(str(tmp_path), "--keys")[1].split() == keys


def test_records_of_other_versions_are_cited_as_far_as_they_are_known(run, tmp_path):
    old = made_up(first(60)).model_copy(update={"papers": ["nobody1999"]})
    new = made_up(first(60), seed=1)
    new = new.model_copy(update={"cell": new.cell.model_copy(update={"attack": "unheard_of(steps=3)"})})
    for record in (old, new):
        records.write(tmp_path, record)
    (tmp_path / "cells" / "0123456789ab.json").write_text('{"schema": 1')
    code, out, err = run(str(tmp_path), "--keys")
    assert code == 0 and "madry2018" in out.split() and "nobody1999" not in out
    lines = err.splitlines()
    assert len(lines) == 3 and "no attack 'unheard_of'" in err
    assert "a record names 'nobody1999', and there is no such reference" in lines
    assert "0123456789ab.json is no whole record" in err


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "the following arguments are required"),
        (["pdg"], "nothing is registered as 'pdg'; did you mean 'pgd'?"),
        (["pgd(step=3)"], "attack 'pgd' has no argument 'step'; did you mean 'steps'?"),
        (["pgd("], "'pgd(' is no call string"),
        ([""], "'' is no call string"),
        (["fashion_mnist/linf/pgd_ta"], "'fashion_mnist/linf/pgd_ta'; did you mean 'fashion_mnist/linf/pgd_at'?"),
        (["{here}/rusults"], "'{here}/rusults'; did you mean '{here}/results'?"),
        (["{here}/results"], "{here}/results holds no records"),
        (["pgd", "--key"], "unrecognized arguments: --key; did you mean '--keys'?"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest_right_one(run, tmp_path, words, message):
    (tmp_path / "results").mkdir()
    code, out, err = run(*(word.replace("{here}", str(tmp_path)) for word in words))
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert message.replace("{here}", str(tmp_path)) in err


def test_citing_a_wrong_call_string_among_right_ones_is_refused():
    with pytest.raises(UserError, match="did you mean 'trades'"):
        cite(["pgd", "tradse"])
