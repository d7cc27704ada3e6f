"""ibp: exact on a linear model and where nothing is unstable; operations without bounds are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.models import build_model
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, UserError
from tests import oracles

NARROW = Runtime(width=16, devices=1)


def certify(certifier, model, x, y, budget):
    made = build("certifier", certifier)
    return made.certify(jax.random.key(0), model, x, y, build("budget", budget), ids=np.arange(len(x)), runtime=NARROW)


@pytest.mark.parametrize("certifier", ["ibp", "crown_ibp", "crown", "forward"])
@pytest.mark.parametrize("ball, eps", [("linf", 0.02), ("l2", 0.2), ("l1", 0.25)])
def test_margins_of_a_linear_model_are_its_own_less_eps_times_the_dual_norm(certifier, ball, eps, linear):
    found = certify(certifier, linear.model, linear.data.x[:16], linear.data.y[:16], f"{ball}({eps})")
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[ball]
    exact = linear.margin[:16] - eps * np.linalg.norm(linear.weights, dual)
    np.testing.assert_allclose(found.margin, exact, atol=2e-5)
    np.testing.assert_array_equal(found.certified, exact > 0)


def test_a_box_of_one_point_has_the_margin_of_the_logits():
    model = build_model("mlp(widths=[12, 8])", (4, 4, 1), 5, jax.random.key(0))
    data = oracles.noise_images(16, (4, 4, 1), 5)
    logits = np.asarray(jax.vmap(model)(data.x.astype(np.float32) / 255))
    rest = np.where(np.arange(5) == data.y[:, None], -np.inf, logits).max(1)
    exact = logits[np.arange(16), data.y] - rest
    for certifier in ("ibp", "crown"):
        np.testing.assert_allclose(certify(certifier, model, data.x, data.y, "linf(0.0)").margin, exact, atol=1e-5)


def test_an_operation_without_bounds_is_named_with_its_place():
    def sorted_logits(params, x):
        return jnp.sort(x.reshape(-1) @ params)

    model = Classifier(sorted_logits, np.ones((4, 3), np.float32))
    with pytest.raises(UserError, match=r"'sort' \(test_ibp.py:\d+\)"):
        certify("ibp", model, np.zeros((2, 2, 2, 1), np.uint8), np.zeros(2, int), "linf(0.1)")


def test_an_operation_without_bounds_that_the_logits_do_not_need_is_no_hindrance():
    def with_a_side_thought(params, x):
        jnp.sort(x.reshape(-1))
        return x.reshape(-1) @ params

    model = Classifier(with_a_side_thought, np.eye(4, 3, dtype=np.float32))
    x = np.full((2, 2, 2, 1), 51, np.uint8) * np.array([[[[1], [0]], [[0], [0]]]], np.uint8)
    found = certify("ibp", model, x, np.zeros(2, int), "linf(0.05)")
    np.testing.assert_allclose(found.margin, 0.2 - 0.05 - 0.05, atol=1e-6)
