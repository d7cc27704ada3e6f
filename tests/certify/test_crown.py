"""crown and crown_ibp: exact where all neurons are stable, in order of tightness, as auto_LiRPA has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.certify.bounded import margin_rows, regions_of
from robustbench_jax.models import build_model
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier
from tests import oracles

METHODS = ("ibp", "crown_ibp", "crown", "forward")


def hidden(params, x):
    z = x.reshape(-1)
    for w, b in params[:-1]:
        z = jax.nn.relu(z @ w + b)
    return z @ params[-1][0] + params[-1][1]


def margins(method, model, x, y, budget, classes):
    return np.asarray(
        build("certifier", method).margins(model, regions_of(x, build("budget", budget)), margin_rows(y, classes))
    )


@pytest.mark.parametrize("ball", ["linf", "l2"])
def test_where_every_neuron_is_stable_the_bound_is_exact(ball):
    """Biases of +-20 fix which neurons are on: there the network is linear."""
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(9, 8)).astype(np.float32), rng.normal(size=(8, 3)).astype(np.float32)
    b = np.where(np.arange(8) % 2, 20, -20).astype(np.float32)
    model = Classifier(hidden, [(w, b), (v, np.zeros(3, np.float32))])
    x = rng.uniform(0.3, 0.7, (6, 3, 3, 1)).astype(np.float32)
    y = np.arange(6) % 3
    slope = (w * (b > 0)) @ v
    offset = (b * (b > 0)) @ v
    rows = margin_rows(y, 3)
    direction = np.einsum("brc,dc->brd", rows, slope)
    exact = np.einsum("brd,bd->br", direction, x.reshape(6, 9)) + rows @ offset
    exact = exact - 0.1 * np.linalg.norm(direction, {"linf": 1, "l2": 2}[ball], axis=-1)
    for method in ("crown_ibp", "crown", "forward"):
        np.testing.assert_allclose(margins(method, model, x, y, f"{ball}(0.1)", 3), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("budget", ["linf(0.03)", "l2(0.3)", "l1(1.0)"])
def test_intervals_are_never_better_than_crown_ibp_which_is_no_better_than_crown_on_average(budget):
    model = build_model("mlp(widths=[16, 12])", (4, 4, 1), 5, jax.random.key(0))
    data = oracles.noise_images(16, (4, 4, 1), 5)
    ibp, crown_ibp, crown, forward = (margins(m, model, data.x, data.y, budget, 5) for m in METHODS)
    assert all(np.all(ibp <= other + 1e-5) for other in (crown_ibp, crown, forward))
    assert ibp.mean() < crown_ibp.mean() < crown.mean() and ibp.mean() < forward.mean()


def test_the_weights_may_be_traced():
    model = build_model("mlp(widths=[8])", (4, 4, 1), 3, jax.random.key(0))
    x = oracles.noise_images(4, (4, 4, 1), 3).x
    y = np.zeros(4, int)
    regions, rows = regions_of(x, build("budget", "linf(0.02)")), jnp.asarray(margin_rows(y, 3))
    from robustbench_jax.certify import bounding

    traced = jax.jit(lambda m: bounding.interval_margins(m, regions, rows, {}))(model)
    with jax.disable_jit():
        plain = bounding.interval_margins(model, regions, rows, {})
    np.testing.assert_allclose(traced, plain, atol=1e-5)
    np.testing.assert_allclose(traced, margins("ibp", model, x, y, "linf(0.02)", 3), atol=1e-5)


LIRPA = {  # lower bounds by auto_LiRPA 0.7.1 (scripts/reference_bounds.py, "dense"): means over 20 images, 9 margins
    ("linf(0.00784313725490196)", "ibp"): 2.354995,
    ("linf(0.00784313725490196)", "crown_ibp"): 4.622044,
    ("linf(0.00784313725490196)", "crown"): 4.731700,
    ("l2(0.2)", "ibp"): -8.046224,
    ("l2(0.2)", "crown_ibp"): 1.836367,
    ("l2(0.2)", "crown"): 4.370834,
}


def test_bounds_are_those_of_auto_lirpa():
    rng = np.random.default_rng(0)
    params = []
    for ins, outs in ((48, 40), (40, 30), (30, 20), (20, 10)):
        w, b = (rng.normal(size=s) * np.sqrt(2 / np.prod(s[1:])) for s in ((outs, ins), (outs,)))
        params.append((w.T.astype(np.float32), b.astype(np.float32)))
    model = Classifier(hidden, params)
    x = np.random.default_rng(1).uniform(0.25, 0.75, (20, 3, 4, 4)).astype(np.float32)
    y = np.asarray(jax.vmap(model)(x)).argmax(-1)
    for (budget, method), mean in LIRPA.items():
        np.testing.assert_allclose(margins(method, model, x, y, budget, 10).mean(), mean, rtol=1e-5)
