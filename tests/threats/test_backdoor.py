"""Backdoors: denominators, baselines and what defenders are shown, on models with known answers."""

import dataclasses

import jax
import numpy as np
import pytest

from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.defences.inspection.inspector import Inspection, Inspector
from robustbench_jax.metrics import DEFINITIONS, defence_effectiveness
from robustbench_jax.registry import build
from robustbench_jax.threats import backdoor
from robustbench_jax.threats.lab import TRUSTED
from robustbench_jax.types import UserError
from tests.threats import laboratory

KEY = jax.random.key(0)


class Oracle(Sanitiser):
    """Knows that poisons have a white last pixel."""

    looks, remove = False, 0.1

    def score(self, key, model, data, trusted):
        assert model is None and not np.any(trusted.x[:, -1, -1, 0] == 255)
        return (data.x[:, -1, -1, 0] == 255).astype(float)


class Suspicious(Inspector):
    def inspect(self, key, model, trusted):
        target = int(model.params["target"])
        return Inspection(float(target >= 0), np.arange(4) == target, {"norms": np.ones(4)}, ("made up",))


def outcome(lab, text="badnets(size=1, target=2)", budget="count(10)"):
    data = laboratory.images(60, seed=2)
    return backdoor.run(KEY, lab, data, build("attack", text), build("budget", budget)), data


def value(found, name):
    return found.metrics[name].value


def test_success_is_counted_over_images_of_other_classes():
    found, data = outcome(laboratory.lab())
    assert value(found, "clean_accuracy") == 1.0
    assert value(found, "backdoor_success_rate") == 1.0 and value(found, "triggered_accuracy") == 0.0
    assert found.metrics["backdoor_success_rate"].n == np.sum(data.y != 2) < len(data)
    np.testing.assert_array_equal(found.arrays["eligible"], data.y != 2)
    assert not found.arrays["fooled"][data.y == 2].any()


def test_a_clean_model_stands_beside_the_victim_and_is_not_fooled():
    found, _ = outcome(laboratory.lab())
    assert value(found, "clean_model_accuracy") == 1.0 and value(found, "clean_model_success_rate") == 0.0


def test_no_poisons_leave_the_training_data_as_they_were():
    lab = laboratory.lab()
    found, _ = outcome(lab, budget="rate(0)")
    assert all(data.digest == lab.data.digest for data, *_ in lab.fit.asked)
    assert value(found, "backdoor_success_rate") == 0.0 and value(found, "poisons") == 0


def test_an_all_to_all_backdoor_is_judged_on_every_image():
    found, data = outcome(laboratory.lab(), "badnets(size=1, relabels='all_to_all')")
    assert found.metrics["backdoor_success_rate"].n == len(data)


def test_trusted_images_are_never_poisoned_and_are_trained_on():
    lab = laboratory.lab()
    outcome(lab, budget="count(80)")
    data = lab.fit.asked[-1][0]
    np.testing.assert_array_equal(data.x[lab.known], lab.data.x[lab.known])
    assert lab.known.sum() == TRUSTED * len(lab.data) and len(data) == len(lab.data)


def test_more_poisons_than_images_that_are_not_trusted_are_refused():
    with pytest.raises(UserError, match="96 poisons: 95 of 100 training images are not trusted"):
        outcome(laboratory.lab(sanitiser=Oracle()), budget="count(96)")
    with pytest.raises(UserError, match="there are 100 training images"):
        outcome(laboratory.lab(), budget="count(101)")


def test_a_data_defence_is_measured_and_another_model_is_trained_without_the_suspects():
    lab = laboratory.lab(sanitiser=Oracle())
    found, _ = outcome(lab)
    assert [value(found, name) for name in ("poisons_removed", "clean_removed", "poison_auc")] == [1.0, 0.0, 1.0]
    assert value(found, "undefended_success_rate") == 1.0 and value(found, "backdoor_success_rate") == 0.0
    assert value(found, "defence_effectiveness") == 1.0
    assert len(lab.fit.asked[-1][0]) == 90
    assert found.artefacts["removed"].sum() == 10 and len(found.artefacts["poison_rows"]) == 10


def test_scores_that_are_not_finite_are_refused():
    class Broken(Oracle):
        def score(self, key, model, data, trusted):
            return np.full(len(data), np.nan)

    with pytest.raises(ValueError, match="100 of them not finite"):
        outcome(laboratory.lab(sanitiser=Broken()))


def test_an_inspection_sees_the_victim_and_trusted_images():
    found, _ = outcome(laboratory.lab(inspector=Suspicious()))
    assert value(found, "anomaly_score") == 1.0 and value(found, "accused_classes") == 1
    assert found.artefacts["accused"].tolist() == [False, False, True, False] and "made up" in found.flags


@pytest.mark.parametrize("attack, norm, overlap", [("badnets(size=2)", 4.5, 0.8), ("badnets(size=6)", 4.5, 5 / 36)])
def test_a_recovered_mask_is_compared_with_the_pixels_that_the_trigger_changes(attack, norm, overlap):
    class Recovering(Suspicious):
        def inspect(self, key, model, trusted):
            mask = np.zeros((laboratory.CLASSES, 6, 6, 1))
            mask[0, -2:, -2:], mask[0, 0, 0], mask[0, 0, 1] = 0.8, 0.9, 0.4
            return dataclasses.replace(super().inspect(key, model, trusted), arrays={"mask": mask})

    found, _ = outcome(laboratory.lab(inspector=Recovering()), attack)
    assert value(found, "mask_norm") == pytest.approx(norm) and value(found, "mask_overlap") == pytest.approx(overlap)
    nothing, _ = outcome(laboratory.lab(inspector=Recovering()), attack, budget="rate(0)")
    assert "mask_norm" not in nothing.metrics


def test_effectiveness_lies_between_0_and_1_and_falls_with_lost_accuracy():
    """BackdoorBench's function of this name adds the loss: 1.21 for the first of these."""
    assert defence_effectiveness(0.92, 0.50, 1.0, 0.0) == pytest.approx(0.79)
    assert defence_effectiveness(0.9, 0.9, 0.4, 0.4) == 0.5
    assert defence_effectiveness(0.5, 0.9, 0.0, 1.0) == 0.5
    values = [defence_effectiveness(0.9, after, 0.9, 0.1) for after in np.linspace(0, 1, 11)]
    assert np.all(np.diff(values) >= 0) and 0 <= min(values) and max(values) <= 1


def test_every_metric_is_defined():
    found, _ = outcome(laboratory.lab(sanitiser=Oracle(), inspector=Suspicious()))
    assert set(found.metrics) <= set(DEFINITIONS)
