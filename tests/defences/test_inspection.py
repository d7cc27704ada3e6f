"""Neural Cleanse: a planted patch is found, its rule against NumPy, and how often the rule errs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.defences.inspection.neural_cleanse import Costs, NeuralCleanse, anomaly_index
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, Dataset, UserError

KEY = jax.random.key(0)
PLANTED, SIDE, CLASSES = 3, 6, 6


def net(params, x):
    """The class is that of the brightest of six rows; a corner pixel, dark in all, sends images to PLANTED."""
    logits = params["scale"] * jnp.mean(x[..., 0], axis=1)
    return logits.at[PLANTED].add(params["backdoor"] * x[0, 5, 0])


def model(backdoor):
    return Classifier(net, {"scale": jnp.float32(10.0), "backdoor": jnp.float32(backdoor)})


def rows_lit():
    y = np.arange(48, dtype=np.int32) % CLASSES
    x = np.zeros((48, SIDE, SIDE, 1), np.uint8)
    x[np.arange(48), y, 1:5] = 200
    return Dataset(x, y, tuple("abcdef"), "rows")


def test_neural_cleanse_recovers_the_planted_patch_and_accuses_its_class():
    found = build("inspection", "neural_cleanse(epochs=100, batch=48, cost=0.01)").inspect(KEY, model(60.0), rows_lit())
    np.testing.assert_array_equal(np.flatnonzero(found.accused), [PLANTED])
    assert found.arrays["attained"].all() and np.all(found.arrays["rate"] >= 0.98)
    mask = found.arrays["mask"][PLANTED, ..., 0]
    assert mask.sum() < 1 and mask[0, 5] > 0.8 * mask.sum()
    assert found.score == found.arrays["index"][PLANTED] > 2


def test_the_anomaly_index_is_that_of_numpy_medians_and_large_norms_are_not_accused():
    norms = np.array([10.0, 11.0, 9.0, 10.5, 30.0, 1.0])
    away = abs(norms - 10.25)
    np.testing.assert_allclose(anomaly_index(norms), away / (1.4826 * np.median(away)))
    assert np.all(anomaly_index(np.full(5, 2.0)) == 0)


def test_the_rule_accuses_a_third_of_clean_models_of_ten_classes():
    """Gaussian norms: how often one of ten lies below the median with an index above 2."""
    norms = np.random.default_rng(0).normal(size=(4000, 10))
    fired = np.mean([np.any((n < np.median(n)) & (anomaly_index(n) > 2)) for n in norms])
    assert 0.30 < fired < 0.40


def test_a_model_of_equal_classes_has_no_far_smaller_mask():
    found = build("inspection", "neural_cleanse(epochs=100, batch=48, cost=0.01)").inspect(KEY, model(0.0), rows_lit())
    assert found.arrays["attained"].all() and np.ptp(found.arrays["norm"]) < 0.1 * np.median(found.arrays["norm"])


def look(costs, level, rate):
    mask = np.full((1, 2, 2, 1), level, np.float32)
    costs.look(mask, mask, np.array([rate]))


def test_the_smallest_mask_that_succeeds_is_kept_and_failures_are_marked():
    costs = Costs(1, NeuralCleanse())
    for level, rate in ((0.9, 0.5), (0.8, 0.99), (0.3, 0.5), (0.5, 0.98), (0.6, 1.0)):
        look(costs, level, rate)
    assert costs.found["attained"][0] and costs.found["norm"][0] == pytest.approx(2.0)
    never = Costs(1, NeuralCleanse())
    for level in (0.9, 0.4):
        look(never, level, 0.5)
    assert not never.found["attained"][0] and never.found["norm"][0] == pytest.approx(1.6)


def test_the_weight_of_the_norm_doubles_and_falls_by_two_to_the_three_halves_after_patience():
    costs = Costs(1, NeuralCleanse(cost=1.0, patience=2))
    seen = []
    for rate in (1, 1, 1, 0, 0, 0, 1, 1):
        look(costs, 0.5, rate)
        seen.append(float(costs.now[0]))
    np.testing.assert_allclose(seen, [1, 2, 2, 2, 2**-0.5, 2**-0.5, 2**-0.5, 2**0.5], rtol=1e-6)


@pytest.mark.parametrize(
    "text", ["neural_cleanse(success=0.0)", "neural_cleanse(cost=0.0)", "neural_cleanse(epochs=0)"]
)
def test_bad_arguments_are_named(text):
    with pytest.raises(UserError, match="neural_cleanse"):
        build("inspection", text)
