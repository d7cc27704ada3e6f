"""From a cell with a certifier to a record, on disk and from Python; and sweeps that have attacks and certifiers."""

import json

import numpy as np
import pytest

import robustbench_jax as rb
from robustbench_jax.bench import config, records, runner
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.types import UserError
from tests.certify import oracle

CELL = {"model": "mlp", "dataset": "fashion_mnist_mini", "budget": "linf(0.1)"}


@pytest.fixture(autouse=True)
def certifiers():
    with oracle.registered():
        yield


def test_from_python_a_certificate_is_the_record_of_the_threat(linear):
    eps = float(np.median(linear.distance("linf")))
    record = rb.certify(linear.model, linear.data, "exact_linear", f"linf({eps})", examples=40, name="line")
    assert (record.cell.threat, record.cell.model, record.cell.examples) == ("certification", "line", 40)
    certified = np.array(record.per_example["certified"])
    np.testing.assert_array_equal(certified, linear.distance("linf")[:40] > eps)
    assert record.metrics["certified_accuracy"].value == certified.mean()
    assert record.stages[0]["branches"] == 3 and len(record.timing.stages_s) == 1
    assert record.papers[:1] == ["oracle2026"]
    assert json.loads(record.to_json())["per_example"]["radius"][0] == pytest.approx(
        linear.distance("linf")[0], rel=1e-4
    )
    with pytest.raises(UserError, match="no certifier 'exact_liner'; did you mean 'exact_linear'"):
        rb.certify(linear.model, linear.data, "exact_liner", "linf(0.1)")


def test_counterexamples_are_kept_as_adversarial_examples_are(linear, tmp_path):
    eps = float(np.median(linear.distance("linf")))
    cell = make_cell(**CELL | {"budget": f"linf({eps})"}, certifier="exact_linear")
    record, outcome = runner.run_cell(cell, linear.model, linear.data)
    runner.keep(tmp_path, record, outcome)
    with np.load(tmp_path / "arrays" / f"{cell.id}.npz") as stored:
        np.testing.assert_array_equal(stored["ids"], np.flatnonzero(record.per_example["attacked"]))
        assert stored["x_adv"].shape == (len(stored["ids"]), 6, 6, 1)
    assert records.read(tmp_path / "cells" / f"{cell.id}.json") == record


def test_a_record_of_certification_that_lacks_what_tables_read_is_damaged(linear):
    record = rb.certify(linear.model, linear.data, "exact_linear", "linf(0.1)")
    fields = record.model_dump(by_alias=True)
    fields["per_example"].pop("certified")
    with pytest.raises(ValueError, match="it is ok and lacks certified"):
        records.Record(**fields)


def test_certifiers_learn_from_no_pool():
    assert runner.training_images(make_cell(**CELL, certifier="exact_linear"), None) is None


def test_certifier_is_an_axis_of_a_sweep_beside_one_of_attacks(tmp_path):
    path = tmp_path / "both.toml"
    path.write_text(
        "[[sweep]]\nmodel = 'mlp'\ndataset = 'fashion_mnist_mini'\nattack = ['fgsm', 'pgd']\nbudget = 'linf(0.1)'\n"
        "[[sweep]]\nmodel = 'mlp'\ndataset = 'fashion_mnist_mini'\ncertifier = ['exact_linear', 'shy_linear']\n"
        "budget = 'linf(0.1)'\n"
    )
    cells = config.load_sweep(path).cells
    assert [cell.method for cell in cells] == ["fgsm", "pgd", "exact_linear", "shy_linear"]
    assert [cell.threat for cell in cells] == ["evasion"] * 2 + ["certification"] * 2
    path.write_text(path.read_text().replace("attack = ['fgsm', 'pgd']", "attack = 'pgd'\ncertifier = 'shy_linear'"))
    with pytest.raises(UserError, match="both.toml: attack = 'pgd' and certifier = 'shy_linear': a cell has one of"):
        config.load_sweep(path)
