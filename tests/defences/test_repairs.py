"""Repairs: planted neurons and channels with known answers, and what a repair may choose by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.defences.inspection.inspector import Inspection
from robustbench_jax.defences.inspection.neural_cleanse import NeuralCleanse
from robustbench_jax.defences.repair import fine_pruning
from robustbench_jax.defences.repair.anp import scaled
from robustbench_jax.defences.repair.clp import channel_norms, outstanding
from robustbench_jax.defences.repair.fine_pruning import awake, chosen_mask, pruned
from robustbench_jax.defences.repair.ft_sam import adaptive_ascent
from robustbench_jax.defences.repair.i_bau import PULL, hypergradient
from robustbench_jax.defences.repair.mode_connectivity import bezier
from robustbench_jax.defences.repair.nad import attention, attention_distance
from robustbench_jax.defences.repair.repair import split
from robustbench_jax.defences.repair.unlearning import NeuralCleanseUnlearning, Recovered, with_triggers
from robustbench_jax.models import build_model
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify, predict
from robustbench_jax.registry import build, discover
from robustbench_jax.types import Classifier, Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
RECIPE = "sgd(epochs=1, batch_size=16, learning_rate=0.01)"
CALLS = {
    "anp": "anp(steps=3, batch=16)",
    "clp": "clp(2.0)",
    "fine_pruning": f"fine_pruning(recipe={RECIPE})",
    "fine_tuning": f"fine_tuning({RECIPE})",
    "ft_sam": f"ft_sam(0.1, {RECIPE})",
    "i_bau": "i_bau(rounds=1, steps=2, ascent=2, batch=16)",
    "mode_connectivity": f"mode_connectivity(0.5, {RECIPE}, {RECIPE})",
    "nad": f"nad(1.0, {RECIPE}, {RECIPE})",
    "neural_cleanse_unlearning": f"neural_cleanse_unlearning(neural_cleanse(epochs=2, batch=16), recipe={RECIPE})",
}
IDENTITIES = [
    "fine_tuning(None)",
    "ft_sam(recipe=None)",
    "mode_connectivity(t=0, recipe=None)",
    "nad(teacher=None, recipe=None)",
    "i_bau(rounds=0)",
    "clp(1000.0)",
    "anp(steps=0)",
]


def planted():
    """Units 0 to 3 of the hidden layer say which quarter of the image is lit; unit 4 answers to the last pixel alone,
    and sends every image to class 0; unit 5 is never awake.
    """
    model = build_model("mlp(widths=[6])", (4, 4, 1), 4, KEY)
    into, head = np.zeros((16, 6), np.float32), np.zeros((6, 4), np.float32)
    for quarter in range(4):
        into[4 * quarter : 4 * quarter + 3, quarter] = 1
        head[quarter, quarter] = 1
    into[:, 0] *= 2  # the unit of class 0, which is what a model without units says, is the last to be pruned
    into[15, 4], head[4, 0], head[5, 1] = 1, 50, 3
    params = model.params | {
        "hidden/0/kernel": jnp.asarray(into),
        "hidden/0/bias": jnp.zeros(6),
        "head/kernel": jnp.asarray(head),
        "head/bias": jnp.zeros(4),
    }
    y = np.arange(80, dtype=np.int32) % 4
    x = np.zeros((80, 16), np.uint8)
    for i, quarter in enumerate(y):
        x[i, 4 * quarter : 4 * quarter + 3] = 255 - i
    return model.replace(params=params), Dataset(x.reshape(-1, 4, 4, 1), y, tuple("abcd"), "quarters")


def with_last_pixel(x):
    x = np.array(x)
    x[:, 3, 3] = 255
    return x


def test_every_repair_has_a_call_here():
    repairs = {name for name, found in discover("model_defence").items() if found.facts.get("repairs")}
    assert repairs - {"oracle_unlearning"} == set(CALLS)


def test_an_oracle_unlearns_what_it_is_told_and_nothing_else():
    model, data = planted()
    mask = np.zeros((4, 4, 1), np.float32)
    mask[3, 3] = 1
    trigger = Recovered(jnp.asarray(mask), jnp.ones((4, 4, 1)), 0)
    oracle = build("model_defence", "oracle_unlearning(recipe=sgd(epochs=40, batch_size=16, learning_rate=0.05))")
    others = data.y != 0
    x = with_last_pixel(data.x[others])
    assert np.all(classify(model, x) == 0)
    repaired = oracle.knowing(trigger).protect(KEY, model, data)
    assert np.mean(classify(repaired, x) == data.y[others]) > 0.8
    with pytest.raises(UserError, match="is told the trigger of a backdoor"):
        oracle.protect(KEY, model, data)


@pytest.mark.parametrize("name", CALLS)
def test_a_repair_keeps_the_network_gives_finite_weights_by_its_key_and_leaves_the_model_as_it_was(name):
    model, data = planted()
    before = {name: np.array(value) for name, value in model.params.items()}
    repaired, again = (build("model_defence", CALLS[name]).protect(KEY, model, data) for _ in range(2))
    assert repaired.net == model.net and not repaired.stochastic
    for path, value in repaired.params.items():
        np.testing.assert_array_equal(again.params[path], value)
    assert all(np.all(np.isfinite(value)) for value in repaired.params.values())
    for path, value in before.items():
        np.testing.assert_array_equal(model.params[path], value)


@pytest.mark.parametrize("text", IDENTITIES)
def test_a_repair_without_steps_is_the_identity(text):
    model, data = planted()
    repaired = build("model_defence", text).protect(KEY, model, data)
    for name, value in model.params.items():
        np.testing.assert_array_equal(repaired.params[name], value)


def test_fine_pruning_removes_the_sleeping_units_and_no_other():
    model, data = planted()
    repaired = build("model_defence", "fine_pruning(0.0, recipe=None)").protect(KEY, model, data)
    gone = np.all(np.asarray(repaired.params["head/kernel"]) == 0, axis=1)
    np.testing.assert_array_equal(gone, [False, False, False, False, True, True])
    np.testing.assert_array_equal(predict(repaired, data.x), predict(model, data.x))
    lit = with_last_pixel(data.x)
    assert np.all(classify(model, lit) == 0)
    np.testing.assert_array_equal(classify(repaired, lit), data.y)


def test_the_mask_is_the_last_one_within_tolerance_not_the_first_beyond():
    """Unit 0 is the third to go. That costs nothing: where no unit is awake, the first of equal classes is class 0; the
    fourth costs a quarter of all images.
    """
    model, data = planted()
    means = np.array([0.1, 0.2, 0.3, 0.4, 0.0, 0.0])
    np.testing.assert_array_equal(chosen_mask(model, means, data, 0.2, 6), [0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(chosen_mask(model, means, data, 0.3, 6), [0, 0, 1, 1, 0, 0])


def test_a_pruned_network_shares_no_array_with_the_one_pruned_further():
    model, _ = planted()
    one = pruned(model, np.array([1, 1, 1, 1, 0, 1]))
    kept = np.array(one.params["head/kernel"])
    pruned(one, np.zeros(6))
    np.testing.assert_array_equal(one.params["head/kernel"], kept)
    assert np.any(np.asarray(model.params["head/kernel"])[4] != 0)


def test_what_is_pruned_stays_pruned_in_the_fine_tuning():
    model, data = planted()
    lit = Dataset(with_last_pixel(data.x), data.y, data.classes, "unit 4 awake")
    mask = jnp.asarray([1, 1, 1, 1, 0, 1.0])
    defence = fine_pruning.Masked(mask)
    tuned = fine_pruning.tuned(KEY, pruned(model, mask), lit, build("recipe", RECIPE), defence)
    head = np.asarray(tuned.params["head/kernel"])
    assert np.all(head[4] == 0) and np.any(head[:4] != np.asarray(model.params["head/kernel"])[:4])


def test_units_are_measured_by_their_mean_on_the_images():
    model, data = planted()
    expected = [3 * np.mean(np.where(data.y == q, 255 - np.arange(80), 0)) / 255 for q in range(4)]
    np.testing.assert_allclose(awake(model, data), [2 * expected[0], *expected[1:], 0, 0], rtol=1e-5)


def test_the_choice_is_made_by_held_out_trusted_images_alone():
    """Wrong labels in the part that is worked with change nothing of the mask; in the held-out part they do."""
    model, data = planted()
    index = Dataset(np.arange(80, dtype=np.uint8).reshape(-1, 1, 1, 1), data.y, data.classes, "ids")
    used, held = (np.ravel(part.x) for part in split(KEY, index, 0.2))
    assert len(held) == 16 and not set(used) & set(held)

    def head(rows):
        y = np.array(data.y)
        y[rows] = 0
        repair = build("model_defence", "fine_pruning(0.0, recipe=None)")
        found = repair.protect(KEY, model, Dataset(data.x, y, data.classes, "some labels wrong"))
        return np.asarray(found.params["head/kernel"])

    np.testing.assert_array_equal(head(used), head([]))
    assert np.any(head(held) != head([]))


def test_clp_finds_the_planted_channel_and_zeroes_nothing_else():
    model = build_model("cnn(convolutions=[[16, 3, 1]], dense=[])", (6, 6, 1), 3, KEY)
    kernel = model.params["convolutions/0/kernel"]
    loud = kernel.at[..., 7].multiply(40.0)
    params = model.params | {"convolutions/0/kernel": loud, "convolutions/0/bias": jnp.ones(16)}
    repaired = build("model_defence", "clp(3.0)").protect(KEY, model.replace(params=params), oracles.noise_images())
    others = np.arange(16) != 7
    np.testing.assert_array_equal(repaired.params["convolutions/0/kernel"], loud * others)
    np.testing.assert_array_equal(repaired.params["convolutions/0/bias"], others * 1.0)
    np.testing.assert_array_equal(repaired.params["head/kernel"], model.params["head/kernel"])


def test_channel_norms_are_largest_singular_values():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
    expected = [np.linalg.svd(kernel[..., c].reshape(9, 4))[1][0] for c in range(5)]
    np.testing.assert_allclose(channel_norms(jnp.asarray(kernel)), expected, rtol=1e-5)
    np.testing.assert_array_equal(outstanding(np.array([1.0] * 15 + [9.0]), 3), [False] * 15 + [True])


def test_factors_of_one_change_nothing_and_of_zero_remove_the_unit():
    params = {"a/kernel": jnp.ones((2, 3)), "a/bias": jnp.ones(3)}
    same = scaled(params, {"a/kernel": jnp.ones(3)}, {"a/kernel": jnp.ones(3)})
    np.testing.assert_array_equal(same["a/kernel"], params["a/kernel"])
    moved = scaled(params, {"a/kernel": jnp.array([0, 1, 0.5])}, {"a/kernel": jnp.array([1, 2, 3.0])})
    np.testing.assert_array_equal(moved["a/kernel"], [[0, 1, 0.5]] * 2)
    np.testing.assert_array_equal(moved["a/bias"], [1, 2, 3])


def test_masks_of_anp_stay_shares_and_move():
    model, data = oracles.tiny()[0], oracles.noise_images(32)
    masks = build("model_defence", "anp(steps=8, batch=16)").masks(KEY, model, data)["hidden/0/kernel"]
    assert np.all((masks >= 0) & (masks <= 1)) and np.any(masks < 1)


def test_the_adaptive_ascent_is_the_best_move_of_its_ellipsoid():
    """Of all e with ||e / |w||| = rho, it has the largest product with the gradient, rho || |w| g ||."""
    w, g = {"a": jnp.array([1.0, -2.0])}, {"a": jnp.array([3.0, 0.5])}
    move = adaptive_ascent(w, g, 0.7)["a"]
    np.testing.assert_allclose(np.linalg.norm(move / w["a"]), 0.7, rtol=1e-6)
    np.testing.assert_allclose(move @ g["a"], 0.7 * np.linalg.norm(w["a"] * g["a"]), rtol=1e-6)
    assert np.all(np.asarray(adaptive_ascent(w, {"a": jnp.zeros(2)}, 0.7)["a"]) == 0)


def test_attention_sums_squares_over_channels_and_has_norm_one():
    values = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    expected = (values**2).sum(-1).ravel()
    np.testing.assert_allclose(attention(jnp.asarray(values)), expected / np.linalg.norm(expected), rtol=1e-5)
    model, data = planted()
    assert attention_distance(model, model, as_unit(data.x[0])) == 0


def test_the_hypergradient_tends_to_that_of_the_exact_minimum():
    """inner = |d - A w|^2 / 2 with Hessian 1: d* = A w, and outer = |d - b|^2 / 2 + |w|^2 / 2 has the total derivative
    A'(A w - b) + w.
    """
    rng = np.random.default_rng(0)
    a, b, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 2), 3, 2))

    def inner(d, w):
        return jnp.sum((d - a @ w) ** 2) / 2

    def outer(d, w):
        return jnp.sum((d - b) ** 2) / 2 + jnp.sum(w**2) / 2

    found = hypergradient(inner, outer, a @ w, w, int(12 / PULL))
    np.testing.assert_allclose(found, a.T @ (a @ w - b) + w, atol=1e-3)


def test_a_share_of_the_images_gets_a_trigger_and_all_keep_their_labels():
    data = oracles.noise_images(40)
    mask = np.zeros((8, 8, 1), np.float32)
    mask[:2, :2] = 1
    triggers = [Recovered(jnp.asarray(mask), jnp.full((8, 8, 1), level), 0) for level in (0.0, 1.0)]
    found = with_triggers(KEY, data, triggers, 0.2)
    np.testing.assert_array_equal(found.y, data.y)
    corner = found.x[:, :2, :2].reshape(40, -1)
    black, white = (np.all(corner == level, axis=1) for level in (0, 255))
    assert black.sum() == white.sum() == 4
    rest = ~(black | white)
    np.testing.assert_array_equal(found.x[rest], data.x[rest])


class Accuses(NeuralCleanse):
    """Says which classes are accused, with a patch on the last pixel."""

    accused = ()

    def inspect(self, key, model, trusted):
        mask = np.zeros((4, 4, 4, 1), np.float32)
        mask[:, 3, 3] = 1
        return Inspection(3.0, np.isin(np.arange(4), self.accused), {"mask": mask, "pattern": np.ones_like(mask)})


def test_the_triggers_of_accused_classes_are_unlearned_and_without_any_the_model_stays():
    model, data = planted()
    recipe, inspection = build("recipe", "sgd(epochs=8, batch_size=16, learning_rate=0.05)"), Accuses()
    same = NeuralCleanseUnlearning(inspection, recipe=recipe).protect(KEY, model, data)
    assert same is model
    object.__setattr__(inspection, "accused", (0,))
    repaired = NeuralCleanseUnlearning(inspection, recipe=recipe).protect(KEY, model, data)
    lit = with_last_pixel(data.x)
    assert np.mean(classify(model, lit) == data.y) == 0.25
    assert np.mean(classify(repaired, lit) == data.y) > 0.9 and np.mean(classify(repaired, data.x) == data.y) > 0.9


def test_what_is_no_network_of_ours_is_refused():
    linear = oracles.linear()
    with pytest.raises(UserError, match="fine_tuning"):
        build("model_defence", "fine_tuning()").protect(
            KEY, Classifier(oracles.affine, linear.model.params), linear.data
        )


def test_two_trusted_parts_need_an_image_each():
    _, data = planted()
    with pytest.raises(UserError, match="held = 0.01"):
        split(KEY, data.take(20), 0.01)


@pytest.mark.parametrize("text", ["fine_pruning(1.5)", "clp(0.0)", "anp(alpha=2.0)", "ft_sam(0.0)", "nad(-1.0)"])
def test_bad_arguments_are_named(text):
    with pytest.raises(UserError, match="must be"):
        build("model_defence", text)


def test_a_path_begins_and_ends_where_it_says_and_is_trained_between():
    model, data = planted()
    tuning = "sgd(epochs=2, batch_size=16, learning_rate=0.05)"
    ends = [
        build("model_defence", f"mode_connectivity({t}, {tuning}, {tuning})").protect(KEY, model, data) for t in (0, 1)
    ]
    for name, value in model.net.trainable(model.params).items():
        np.testing.assert_allclose(ends[0].params[name], value, atol=1e-6)
    middle = build("model_defence", f"mode_connectivity(0.5, {tuning}, {tuning})").protect(KEY, model, data)
    assert any(np.any(middle.params[k] != (v + ends[1].params[k]) / 2) for k, v in ends[0].params.items())
    a, b, c = ({"w": jnp.asarray(float(v))} for v in (1, 5, 3))
    assert float(bezier(a, b, c, 0.5)["w"]) == 0.25 * 1 + 0.5 * 5 + 0.25 * 3
    with pytest.raises(UserError, match="mode_connectivity: t = 2.0 must be from 0 to 1"):
        build("model_defence", "mode_connectivity(2)")
