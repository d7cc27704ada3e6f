"""Attribute inference as an experiment: members and others, the two controls, the record and its table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.bench import privacy_table, records
from robustbench_jax.cli import main
from robustbench_jax.data import load_dataset
from robustbench_jax.models import build_model
from robustbench_jax.ops.statistics import independent_difference, paired_difference
from robustbench_jax.registry import build
from robustbench_jax.threats import attribute
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Classifier

KEY = jax.random.key(0)
SMALL = "census(train=400, test=300)"


def remembered(params, x):
    """Its people's label for certain, and the other one if anything about them is changed; else it sees nothing."""
    same = jnp.all(jnp.abs(params["x"] - x.reshape(-1)) < 0.5, -1)
    others = jnp.sum(jnp.abs(params["x"][:, :48] - x.reshape(-1)[:48]), -1) < 0.5
    right = jax.nn.one_hot(params["y"], 2)
    return 8 * (jnp.where(jnp.any(same), same @ right, others @ (1 - right)))


def by_heart(data, **given):
    flat = jnp.asarray(data.x.reshape(len(data), -1) / 255.0, jnp.float32)
    return Classifier(remembered, {"x": flat, "y": jnp.asarray(data.y)})


def run(text, budget="complete(200)", train=by_heart, data=SMALL, **given):
    lab = Lab(KEY, load_dataset(data, "train"), load_dataset(data), train, **given)
    return attribute.run(KEY, lab, load_dataset(data), build("attack", text), build("budget", budget))


def test_a_model_that_knows_its_people_by_heart_gives_them_away_and_nobody_else():
    found = run("map_estimate('record')")
    value = {name: metric.value for name, metric in found.metrics.items()}
    assert value["attribute_accuracy"] == 1.0 and value["attribute_advantage"] > 0.3
    assert value["held_out_attribute_advantage"] < 0.05  # of whom it knows nothing, it says nothing
    assert value["attribute_memorised"] == pytest.approx(
        value["attribute_advantage"] - value["held_out_attribute_advantage"]
    )
    assert found.metrics["attribute_memorised"].low > 0.2
    assert value["train_accuracy"] == 1.0 and found.metrics["attribute_accuracy"].n == 200
    kept = found.artefacts
    assert kept["members"].sum() == 200 and kept["scores"].shape == (400, 3)
    said = kept["scores"].argmax(-1) == kept["attribute"]
    imputed = kept["imputed"] == kept["attribute"]
    gain = paired_difference(said[kept["members"]], imputed[kept["members"]])
    shown = found.metrics["attribute_advantage"]
    assert (shown.value, (shown.low, shown.high)) == (gain[0], tuple(gain[1]))


def test_imputation_gains_nothing_over_itself():
    found = run("imputation").metrics
    assert found["attribute_advantage"].value == found["attribute_memorised"].value == 0.0
    assert found["attribute_advantage"].low < 0 < found["attribute_advantage"].high


def test_where_an_attack_sees_features_an_untrained_network_is_the_other_control():
    data = "coarse(fashion_mnist_mini, [[0, 2, 3, 4, 6], [1, 5, 7, 8, 9]])"
    fresh = build_model("mlp([16])", (28, 28, 1), 2, KEY)

    def told(params, x):  # the logits are the class itself, for want of a head
        return jax.nn.one_hot(jnp.round(x[0, 0, 0] * 255).astype(int) % 10, 10)

    lab_data = load_dataset(data, "train", 200)
    x = lab_data.x.copy()
    x[:, 0, 0, 0] = lab_data.attribute.values
    marked = dataclasses.replace(lab_data, x=x)
    lab = Lab(KEY, marked, marked, lambda data, **given: Classifier(told, {}), fresh=lambda: fresh)
    found = attribute.run(KEY, lab, marked, build("attack", "overlearned"), build("budget", "complete(200)")).metrics
    assert found["attribute_accuracy"].value == 1.0 and found["imputation_accuracy"].value < 0.5
    assert 0.3 < found["untrained_accuracy"].value < 1.0


def test_intervals_of_independent_differences_are_those_of_the_two_in_squares():
    value, (low, high) = independent_difference((0.5, (0.4, 0.7)), (0.2, (0.15, 0.3)))
    assert value == pytest.approx(0.3)
    assert low == pytest.approx(0.3 - np.hypot(0.1, 0.1)) and high == pytest.approx(0.3 + np.hypot(0.2, 0.05))


RUN = ("--model", "mlp([8])", "--recipe", "sgd(epochs=1, batch_size=20)", "--dataset", SMALL)


def test_the_verb_keeps_a_record_and_the_table_has_a_row_for_each_attack(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ("--defence", "dp_sgd(noise=2.0)", "--budget", "complete(50)", "--out", "out")
    for attack in ("csmia", "overlearned"):
        assert main(["privacy", *RUN, "--attack", attack, *given]) == 0
    found, damaged = records.read_all(tmp_path / "out")
    (page,) = privacy_table.sheets(found)
    assert not damaged and "attribute inference" in page.title and len(page.rows) == 2
    column = page.head.index("Untrained")
    shown = {row[0].split(" ")[0]: row[column] for row in page.rows}
    assert shown["csmia"] == "–" and shown["overlearned"] != "–"
    assert {record.metrics["epsilon"].value for record in found} == {found[0].metrics["epsilon"].value}
    assert "mehnaz2022" in [paper for record in found for paper in record.papers]


@pytest.mark.parametrize(
    "data, attack, budget, message",
    [
        ("fashion_mnist_mini", "csmia", "complete(5)", "fashion_mnist_mini has no private attribute; those that have"),
        (SMALL, "csmia", "complete(301)", "complete(301): there are 300 test records"),
        (SMALL, "csmia", "shadows(2)", "takes no budget 'shadows'"),
        (
            "coarse(fashion_mnist_mini, [[0, 2, 3, 4, 6], [1, 5, 7, 8, 9]])",
            "csmia",
            "complete(5)",
            "'csmia' puts values into records",
        ),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_trained(
    tmp_path, monkeypatch, capsys, data, attack, budget, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["privacy", *RUN[:-1], data, "--attack", attack, "--budget", budget, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1 and not list(tmp_path.rglob("model.json"))
