"""Losses: values worked by hand or in float64, and gradients at ties, at saturation and at large logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats

from robustbench_jax.ops.losses import cross_entropy, dlr, kl, margin, targeted_dlr
from robustbench_jax.registry import entry
from robustbench_jax.types import UserError

UNTARGETED = [cross_entropy, margin, dlr]
every_loss = pytest.mark.parametrize("loss", UNTARGETED, ids=lambda loss: loss.__name__)
value_and_gradient = jax.jit(jax.value_and_grad(lambda loss, z, *y: loss(z, *y), 1), static_argnums=0)
logits = arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, -1.0]))
labels = st.integers(0, 4)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, 5, elements=st.floats(-30, 30, width=32)), labels)
def test_cross_entropy_and_its_gradient_equal_the_float64_softmax(z, y):
    value, gradient = value_and_gradient(cross_entropy, z, y)
    wide = z.astype(np.float64)
    np.testing.assert_allclose(value, np.log1p(np.sum(np.exp(np.delete(wide, y) - wide[y]))), rtol=5e-5)
    np.testing.assert_allclose(gradient, special.softmax(wide) - np.eye(5)[y], atol=1e-6)


@pytest.mark.parametrize("lead", [20.0, 40.0, 80.0])
def test_cross_entropy_of_a_sure_model_still_has_its_value_and_gradient(lead):
    """Where log-softmax in float32 gives 0: the loss is 4 exp(-lead), and its gradient at z_y minus that."""
    value, gradient = value_and_gradient(cross_entropy, jnp.array([0, 0, lead, 0, 0], jnp.float32), 2)
    np.testing.assert_allclose(value, 4 * np.exp(-lead), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.exp(-lead) * np.array([1, 1, -4, 1, 1]), rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(logits, labels)
def test_the_margin_is_positive_exactly_when_another_class_is_ahead(z, y):
    value, _ = value_and_gradient(margin, z, y)
    ahead = np.max(np.delete(z, y)) - z[y]
    assert value == (ahead if abs(ahead) > 1e-37 else pytest.approx(0, abs=1e-37))  # XLA takes 1e-38 for 0


def test_dlr_and_its_gradient_by_hand():
    """(z_1 - z_0) / (z_0 - z_2) at (3, 1, 0, -5): the sorted logits take part in the gradient."""
    value, gradient = value_and_gradient(dlr, jnp.array([3.0, 1.0, 0.0, -5.0]), 0)
    np.testing.assert_allclose(value, -2 / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, [-1 / 9, 3 / 9, -2 / 9, 0], atol=1e-6)


def test_dlr_of_a_misclassified_example_is_positive():
    value, _ = value_and_gradient(dlr, jnp.array([3.0, 1.0, 0.0, -5.0]), 3)
    np.testing.assert_allclose(value, 8 / 3, rtol=1e-6)


def test_targeted_dlr_and_its_gradient_by_hand():
    """(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2) at (5, 3, 1, 0, -1) for y = 0, t = 2: -4 / 4.5."""
    value, gradient = value_and_gradient(targeted_dlr, jnp.array([5.0, 3.0, 1.0, 0.0, -1.0]), 0, 2)
    np.testing.assert_allclose(value, -4 / 4.5, rtol=1e-6)
    slope = 4 / 4.5**2
    np.testing.assert_allclose(gradient, [-1 / 4.5 + slope, 0, 1 / 4.5 - slope / 2, -slope / 2, 0], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, 5, elements=st.integers(-40, 40), unique=True), labels, st.sampled_from([0.25, 64.0]))
def test_dlr_does_not_see_a_shift_or_a_scale_of_the_logits(z, y, scale):
    target = (y + 1) % 5
    moved = np.float32(scale) * z + 3
    np.testing.assert_allclose(dlr(moved, y), dlr(z, y), rtol=1e-5)
    np.testing.assert_allclose(targeted_dlr(moved, y, target), targeted_dlr(z, y, target), rtol=1e-5)


@every_loss
def test_values_and_gradients_are_finite_for_any_finite_logits(loss):
    @settings(max_examples=150, deadline=None)
    @given(logits, labels)
    def check(z, y):
        value, gradient = value_and_gradient(loss, z, y)
        assert np.isfinite(value) and np.isfinite(gradient).all()

    check()


@pytest.mark.parametrize("z", [np.zeros(5), np.full(5, -1e6), [1e6, -1e6, 0, 0, 0], [1, 1, 1, 0, 0]])
@pytest.mark.parametrize(
    "loss, given_labels", [(cross_entropy, (0,)), (margin, (0,)), (dlr, (0,)), (targeted_dlr, (0, 1))]
)
def test_gradients_are_finite_where_logits_tie_or_saturate(loss, given_labels, z):
    value, gradient = value_and_gradient(loss, np.asarray(z, np.float32), *given_labels)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@every_loss
def test_every_loss_rises_when_the_true_class_loses_ground(loss):
    z = jnp.array([2.0, 3.0, 0.5, -1.0])
    values = [loss(z.at[1].add(-fall), 1) for fall in (0.0, 0.5, 1.5)]
    assert values[0] < values[1] < values[2]


def test_the_margin_of_tied_classes_gives_its_gradient_to_the_first():
    _, gradient = value_and_gradient(margin, jnp.array([1.0, 4.0, 4.0, 4.0]), 0)
    np.testing.assert_array_equal(gradient, [-1, 1, 0, 0])


@settings(max_examples=60, deadline=None)
@given(*[arrays(np.float32, 5, elements=st.floats(-20, 20, width=32))] * 2)
def test_kl_equals_the_float64_divergence_of_the_reference_from_the_logits(z, reference):
    p, q = special.softmax(reference.astype(np.float64)), special.softmax(z.astype(np.float64))
    np.testing.assert_allclose(kl(z, reference), stats.entropy(p, q), rtol=1e-4, atol=1e-5)


def test_kl_of_equal_logits_is_zero_with_zero_gradient_and_finite_for_opposite_ones():
    z = jnp.array([1e3, 0.0, -1e3])
    value, gradient = jax.value_and_grad(kl)(z, z)
    assert value == 0 and not np.any(gradient)
    np.testing.assert_allclose(kl(-z, z), 2e3)
    assert np.isfinite(jax.grad(kl)(-z, z)).all()


@pytest.mark.parametrize(
    "loss, classes, least, instead",
    [(cross_entropy, 1, 2, "one logit a class"), (margin, 1, 2, "one logit a class"), (dlr, 2, 3, "use margin")],
)
def test_too_few_classes_is_an_error_that_names_another_loss(loss, classes, least, instead):
    with pytest.raises(UserError, match=f"least {least} classes; the model has {classes}: .*{instead}"):
        loss(jnp.zeros(classes), 0)
    assert np.isfinite(loss(jnp.arange(float(least)), 0))


def test_targeted_dlr_needs_four_classes_and_a_target():
    with pytest.raises(UserError, match="at least 4 classes; the model has 3: use margin"):
        targeted_dlr(jnp.zeros(3), 0, 1)
    with pytest.raises(UserError, match="needs a target class"):
        targeted_dlr(jnp.zeros(4), 0)


def test_losses_are_registered_by_their_names():
    for loss in (*UNTARGETED, targeted_dlr):
        assert entry("loss", loss.__name__).make is loss
