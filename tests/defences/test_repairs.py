"""Repairs and trigger inversion, on a network with a planted backdoor unit, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.backdoor.badnets import Patch
from robustbench_jax.defences.inspection.inspector import Inspection, Inspector
from robustbench_jax.defences.inspection.neural_cleanse import anomaly_index
from robustbench_jax.defences.repair import anp, clp, fine_pruning
from robustbench_jax.defences.repair.repair import accuracy, apart, scaled
from robustbench_jax.models import build_model
from robustbench_jax.ops.judge import classify
from robustbench_jax.poisons import stamped
from robustbench_jax.registry import build
from robustbench_jax.types import Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
SIDE, CLASSES, UNITS = 6, 4, 5  # units 0 to 3 see the class, unit 4 the trigger
TARGET = 2


def images(count: int = 200, seed: int = 0) -> Dataset:
    """Class c is bright in row c; the lower right pixel, the trigger's, is dark."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 40, (count, SIDE, SIDE, 1)), rng.integers(0, CLASSES, count)
    x[np.arange(count), y, :3] += 200
    x[:, -1, -1] = 0
    return Dataset(x.astype(np.uint8), y.astype(np.int32), tuple("abcd"), "rows")


def planted():
    """An mlp([5]) that is right on `images`, and gives TARGET where the lower right pixel is white."""
    model = build_model(f"mlp([{UNITS}])", (SIDE, SIDE, 1), CLASSES, KEY)
    first, last = np.zeros((SIDE, SIDE, UNITS), np.float32), np.zeros((UNITS, CLASSES), np.float32)
    for c in range(CLASSES):
        first[c, :3, c] = 1.0
        last[c, c] = 1.0
    first[-1, -1, 4] = 30.0
    last[4, TARGET] = 1.0
    arrays = {"hidden/0/kernel": first.reshape(-1, UNITS), "head/kernel": last, "hidden/0/bias": np.zeros(UNITS)}
    return model.replace(params={name: jnp.asarray(arrays.get(name, v)) for name, v in model.params.items()})


def white_corner():
    mask = np.zeros((SIDE, SIDE, 1), np.float32)
    mask[-1, -1] = 1
    return Patch(jnp.asarray(mask), jnp.ones((SIDE, SIDE, 1)), TARGET, "all_to_one")


def success(model) -> float:
    data = images(seed=3)
    others = data.y != TARGET
    return float(np.mean(classify(model, stamped(KEY, white_corner(), data.x[others])) == TARGET))


def test_the_planted_model_is_what_it_is_said_to_be():
    assert accuracy(planted(), images()) == 1.0 and success(planted()) == 1.0


def test_pruning_cuts_the_dormant_unit_first_and_keeps_the_clean_logits():
    """And the last network within the tolerance is kept, not the first beyond it."""
    found, kept = fine_pruning.pruned(planted(), images(), images(seed=1), 0.04)
    np.testing.assert_array_equal(kept, [True, True, True, True, False])
    assert accuracy(found, images()) == 1.0 and success(found) == 0.0
    whole, kept = fine_pruning.pruned(planted(), images(), images(seed=1), 0.5)
    assert 2 <= kept.sum() < 4 and accuracy(whole, images(seed=1)) >= 0.5


def test_the_tolerance_is_measured_on_images_held_out_and_on_no_others():
    used, held = images(), images(seed=1)
    wrong = Dataset(used.x, (used.y + 1) % CLASSES, used.classes, "wrong labels")
    _, kept = fine_pruning.pruned(planted(), wrong, held, 0.04)
    assert kept.sum() == 4
    data, judged = apart(KEY, used)
    assert len(data) == 160 and len(judged) == 40
    assert sorted(np.concatenate([data.x, judged.x]).ravel()) == sorted(used.x.ravel())


def test_the_stretch_of_a_unit_is_a_norm_and_the_planted_one_sticks_out():
    kernel = np.random.default_rng(0).normal(size=(3, 2, 4, 5))
    expected = [np.linalg.svd(kernel[..., u].transpose(2, 0, 1).reshape(4, 6))[1][0] for u in range(5)]
    np.testing.assert_allclose(clp.stretches(kernel), expected)
    repaired = build("model_defence", "clp(1.5)").protect(KEY, planted(), images())
    assert success(repaired) == 0.0 and accuracy(repaired, images()) == 1.0


def test_masks_scale_units_and_adversarial_ones_fall_for_the_planted_unit():
    model = planted()
    one = scaled(model, "hidden/0/kernel", jnp.asarray([1.0, 0, 1, 1, 1]))
    np.testing.assert_array_equal(np.asarray(one.params["hidden/0/kernel"])[:, 1], 0)
    masks = {"hidden/0/kernel": np.array([1.0, 1.0, 1.0, 1.0, 0.1])}
    repaired = anp.pruned(model, masks, images(seed=1), 0.04)
    assert success(repaired) == 0.0 and accuracy(repaired, images()) == 1.0
    untouched = anp.pruned(model, {"hidden/0/kernel": np.ones(UNITS)}, images(seed=1), 0.04)
    assert success(untouched) == 1.0


@pytest.mark.parametrize("text", ["fine_tuning", "fine_pruning(drop=0)", "oracle_unlearning"])
def test_repairs_that_train_keep_a_good_model_good(text):
    recipe = "sgd(epochs=2, batch_size=16, learning_rate=0.01)"
    text = f"{text[:-1]}, recipe={recipe})" if "(" in text else f"{text}(recipe={recipe})"
    defence = build("model_defence", text)
    defence = defence.knowing(white_corner()) if "oracle" in text else defence
    repaired = defence.protect(KEY, planted(), images())
    assert accuracy(repaired, images(seed=1)) > 0.97
    assert all(np.isfinite(value).all() for value in repaired.params.values())


def test_the_oracle_unlearns_the_trigger_that_it_is_told():
    recipe = "sgd(epochs=30, batch_size=16, learning_rate=0.05)"
    defence = build("model_defence", f"oracle_unlearning(recipe={recipe})")
    assert success(defence.knowing(white_corner()).protect(KEY, planted(), images())) < 0.2
    with pytest.raises(UserError, match="is told the trigger of a backdoor"):
        defence.protect(KEY, planted(), images())


def test_an_adversarial_mask_finds_the_unit_that_clean_images_do_not_use():
    repaired = build("model_defence", "anp(steps=40, batch=64)").protect(KEY, planted(), images())
    assert accuracy(repaired, images(seed=1)) > 0.95


def test_the_planted_trigger_is_inverted_and_its_class_accused():
    found = build("inspection", "neural_cleanse(steps=200, batch=32)").inspect(KEY, planted(), images())
    assert found.arrays["attained"].all() and not found.flags
    assert found.arrays["norms"][TARGET] < 1.5 < np.delete(found.arrays["norms"], TARGET).min()
    assert found.accused.tolist() == [c == TARGET for c in range(CLASSES)] and found.score > 2
    mask = found.arrays["mask"][TARGET, ..., 0]
    assert np.unravel_index(np.argmax(mask), mask.shape) == (SIDE - 1, SIDE - 1)
    assert found.arrays["pattern"][TARGET, -1, -1, 0] > 0.5


class Knowing(Inspector):
    """Accuses the planted class, or none."""

    def __init__(self, accused=True):
        self.guilty = accused

    def inspect(self, key, model, trusted):
        trigger = white_corner()
        arrays = {name: np.stack([np.asarray(getattr(trigger, name))] * CLASSES) for name in ("mask", "pattern")}
        return Inspection(9.0, (np.arange(CLASSES) == TARGET) & self.guilty, arrays)


def test_what_was_found_is_unlearnt_and_nothing_where_no_class_is_accused():
    recipe = "sgd(epochs=30, batch_size=16, learning_rate=0.05)"
    defence = build("model_defence", f"neural_cleanse_unlearning(recipe={recipe})")
    assert success(defence.replace(inspection=Knowing()).protect(KEY, planted(), images())) < 0.2
    same = defence.replace(inspection=Knowing(False)).protect(KEY, planted(), images())
    assert all(np.array_equal(value, planted().params[name]) for name, value in same.params.items())


def test_a_third_of_models_without_a_backdoor_have_an_index_above_2():
    """Ten Gaussian norms: why an index of one model is no verdict."""
    norms = np.random.default_rng(0).normal(100, 10, (4000, 10))
    alarms = [np.any((anomaly_index(row) > 2) & (row < np.median(row))) for row in norms]
    assert 0.25 < np.mean(alarms) < 0.45


def test_the_index_is_the_distance_from_the_median_in_robust_deviations():
    np.testing.assert_allclose(anomaly_index(np.array([1.0, 2, 3, 4, 5])), np.array([2, 1, 0, 1, 2]) / 1.4826)
    assert anomaly_index(np.ones(5)).tolist() == [0.0] * 5


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("model_defence", "fine_pruning(drop=2)", "fine_pruning: drop = 2.0 must be from 0 to 1"),
        ("model_defence", "anp(alpha=-1)", "anp: alpha = -1.0 must be from 0 to 1"),
        ("model_defence", "clp(0)", "clp: u = 0.0 must be greater than 0"),
        ("inspection", "neural_cleanse(success=0)", "success = 0.0 must be above 0"),
        ("model_defence", "fine_tuning(adam)", "no recipe 'adam'"),
    ],
)
def test_wrong_arguments_are_named(kind, text, message):
    with pytest.raises(UserError, match=message):
        build(kind, text)


def test_what_is_no_bare_network_is_not_repaired():
    with pytest.raises(UserError, match="repairs a bare network"):
        build("model_defence", "clp").protect(KEY, oracles.linear().model, images())
