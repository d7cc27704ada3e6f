"""How trainings went: made-up curves against sums by hand, in the table, the picture and the flags."""

import io

import numpy as np
import pytest
from PIL import Image

from robustbench_jax.bench import report, training_plots
from robustbench_jax.bench.leaderboard import alarms, tables
from robustbench_jax.bench.trainings import flags, sheets, trainings
from robustbench_jax.ops.statistics import t_interval
from tests.bench.made_up import first, made_up

FALL = [0.3, 0.5, 0.4, 0.35]


def trained(robust=FALL, said=(), kept=4, **cell):
    """A record of a model whose training had a curve; robust: None where no attack was watched."""
    made = made_up(first(3), **{"defence": "fast_at", "recipe": "sgd"} | cell)
    rising = [0.5, 0.6, 0.8, 0.9]
    curve = {"loss": rising, "accuracy": rising, "clean": rising, "kept": kept, "held": 100}
    curve |= {} if robust is None else {"robust": robust}
    training = {"step_s": 0.1, "curve": curve} | ({"flags": list(said)} if said else {})
    return made.model_copy(update={"provenance": made.provenance | {"training": training}})


def test_a_row_has_the_best_epoch_the_last_one_and_what_was_lost_between_them():
    (page,) = sheets([trained()])
    assert page.title == "fashion_mnist_mini · learning curves"
    assert page.rows == [["mlp + fast_at", "4", "2", "50.0", "35.0", "15.0", "60.0", "90.0", "100", "1"]]


def test_over_seeds_a_row_has_means_and_the_fall_its_interval():
    other = [0.2, 0.4, 0.6, 0.5]
    (page,) = sheets([trained(), trained(other, seed=1)])
    mean, (low, high) = t_interval(np.array([0.15, 0.1]))
    fall = f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert page.rows == [["mlp + fast_at", "4", "2", "55.0", "42.5", fall, "70.0", "90.0", "100", "2"]]


@pytest.mark.parametrize("robust", [None, [0.3]], ids=["nothing watched", "one epoch"])
def test_what_has_no_curve_of_robust_accuracy_has_no_row(robust):
    assert trainings([trained(robust), made_up(first(3))]) == sheets([trained(robust)]) == []


def test_a_training_counts_once_whatever_was_made_of_its_model_or_done_to_it():
    records = [trained(), trained(attack="fgsm"), trained(model_defence="bit_depth(bits=4)")]
    assert [training.model for training in trainings(records)] == ["mlp + fast_at"]
    assert len(trainings([*records, trained(seed=1), trained(recipe="sgd(epochs=7)")])) == 3


def test_flags_of_a_training_are_said_once_on_every_page():
    records = [trained(said=["it collapsed"]), trained(said=["it collapsed"], attack="fgsm"), trained(seed=1)]
    records.append(trained(said=["so did it"], seed=2))
    lines = ["mlp + fast_at: it collapsed", "mlp + fast_at · seed 2: so did it"]
    assert flags(records) == report.flags(records) == lines
    page = report.html(tables(records), records, "A title", alarms(records), {})
    text = report.markdown(tables(records), "A title", [], doubts=report.flags(records))
    assert all(page.count(line) == 1 and text.count(f"- {line}\n") == 1 for line in lines)


def test_the_picture_has_a_panel_a_model_and_is_the_same_each_time(tmp_path):
    records = [trained(), trained(seed=1, kept=2), trained(model="mlp([8])")]
    once, again = (training_plots.picture(trainings(records)) for _ in range(2))
    assert once == again
    pixels = np.asarray(Image.open(io.BytesIO(once["png"])).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    written = report.write_reports(records, tmp_path, "A title")
    assert {"trainings.png", "trainings.svg"} <= {path.name for path in written}
    assert "trainings.png" in (tmp_path / "leaderboard.md").read_text()
