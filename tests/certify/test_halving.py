"""Boxes that are halved: what they prove of networks whose values are known everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.certify import bounding, halving
from robustbench_jax.certify.halving import Halving
from robustbench_jax.types import Classifier

SHAPE = (1, 2, 1)


def uneven(params, x):
    """Outputs f and -f, where f is a network of two hidden layers of x_0 alone."""
    hidden = jax.nn.relu(x.reshape(-1)[:1] @ params["a"] + params["b"])
    value = (jax.nn.relu(hidden @ params["c"]) @ params["d"])[0]
    return jnp.stack([value, -value])


def uneven_params() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "a": rng.normal(size=(1, 12)),
        "b": rng.normal(size=12),
        "c": rng.normal(size=(12, 12)) / 3,
        "d": rng.normal(size=(12, 1)) / 3,
    }


def edges(params, x):
    """Outputs ||x_0| - 0.5| and its negative."""
    value = jnp.abs(jnp.abs(x.reshape(-1)[0]) - 0.5)
    return jnp.stack([value, -value])


def spike(params, x):
    """1 at x = (0.3, 0.3), 0 at any point that is further than 0.01 away from it along an axis."""
    away = x.reshape(-1) - params["at"]
    height = jax.nn.relu(1.0 - 100.0 * jnp.abs(away).sum())
    return jnp.stack([height, -height])


def searched(function, params, rows, offsets, slack=1e-6, low=(-1.0, -1.0), high=(1.0, 1.0)) -> Halving:
    model = Classifier(function, {name: jnp.asarray(value, jnp.float32) for name, value in params.items()})
    form = bounding.structure(model, SHAPE)
    corners = (np.array([side], np.float32) for side in (low, high))
    return Halving(model, form, *corners, np.array([rows]), np.array([offsets]), np.array([slack]))


def ended(search: Halving, most: int = 20) -> Halving:
    for _ in range(most):
        if not search.open:
            break
        search.split()
    return search


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(halving, "MOST", 16)


def values_of(x: np.ndarray) -> np.ndarray:
    """The network's first output at each x_0."""
    of = {name: jnp.asarray(value, jnp.float32) for name, value in uneven_params().items()}
    return np.asarray(jax.vmap(lambda x: uneven(of, jnp.array([x, 0.0]))[0])(x))


GRID = np.linspace(-1, 1, 20001, dtype=np.float32)


def test_bounds_rise_with_every_call_to_the_least_value_and_never_above_it(narrow):
    """More than the least value cannot be proved, by no number of boxes."""
    least = values_of(GRID).min()
    search = searched(uneven, uneven_params(), [[1.0, 0.0]], [1.0 - least], slack=1.001)
    found = [search.lower[0]]
    for _ in range(6):
        search.split()
        found.append(search.lower[0])
    assert (np.diff(found) >= 0).all() and found[0] < 0.9 and 0.999 < found[-1] <= 1 + 1e-4
    assert search.open and not search.proved[0]


def test_what_no_lines_show_of_the_whole_box_is_proved_of_its_parts(narrow):
    search = searched(uneven, uneven_params(), [[1.0, 0.0]], [0.01 - values_of(GRID).min()])
    assert search.open
    assert ended(search).proved[0] and not search.attacked and 0 < search.lower[0] <= 0.01 + 1e-4


def test_inputs_that_matter_are_halved_first(narrow):
    search = searched(uneven, uneven_params(), [[1.0, 0.0]], [-values_of(GRID).min()])
    search.split()
    widths = search.pool.high - search.pool.low
    assert (widths[:, 1] == 2.0).all() and (widths[:, 0] < 0.5).all()


def test_the_boxes_that_are_left_and_those_that_are_proved_cover_the_whole(narrow):
    """Values of samples outside of the open boxes exceed what was asked."""
    shift = -np.quantile(values_of(GRID), 0.05)
    search = searched(uneven, uneven_params(), [[1.0, 0.0]], [shift])
    for _ in range(3):
        search.split()
    inside = (GRID[:, None] >= search.pool.low[:, 0]) & (GRID[:, None] <= search.pool.high[:, 0])
    outside = ~inside.any(-1)
    assert 0.5 < outside.mean() < 0.96 and (values_of(GRID)[outside] + shift > 0).all()


def test_a_narrow_counterexample_is_found():
    """It is 0.005 wide, with no slope anywhere else: descent from the middle does not move."""
    search = ended(searched(spike, {"at": [0.3, 0.3]}, [[0.0, 1.0]], [0.5]))
    assert search.attacked and search.which == 0 and search.lower[0] == -np.inf
    assert np.abs(search.x_adv.reshape(-1) - 0.3).sum() <= 0.005 + 1e-6


def test_a_box_that_float32_cannot_halve_ends_the_search():
    """At the points 0.5 and the next number the value is 0: neither above the slack nor a counterexample."""
    low, high = [np.float32(0.5), np.float32(0.0)], [np.nextafter(np.float32(0.5), np.float32(1)), np.float32(0.0)]
    search = ended(searched(edges, {"none": 0.0}, [[0.0, 1.0]], [1e-7], low=low, high=high))
    assert not search.open and not search.proved[0] and search.lower[0] <= 1e-6


def test_images_have_too_many_inputs():
    model = Classifier(lambda params, x: x.reshape(-1)[:2] * params["scale"], {"scale": jnp.ones(())})
    assert not halving.suits(bounding.structure(model, (28, 28, 1)))
    assert halving.suits(bounding.structure(model, (4, 4, 1)))
