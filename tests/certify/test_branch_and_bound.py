"""branch_and_bound against exhaustive answers on networks of two inputs, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.certify import bounding, reduction, search
from robustbench_jax.ops.bounds.regions import boxed
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, UserError

RUNTIME = Runtime(width=16, devices=1)
COUNT, EPS = 24, 0.08


def net(params, x):
    hidden = jax.nn.relu(jax.nn.relu(x.reshape(-1) @ params["a"] + params["b"]) @ params["c"] + params["d"])
    return hidden @ params["e"]


@pytest.fixture(scope="module")
def plane():
    """A network of two inputs and two hidden layers, points labelled with its own predictions, and the exact smallest
    margin of each over its square, from a grid of 161 x 161 points and the Lipschitz constant between them.
    """
    keys = jax.random.split(jax.random.key(3), 6)
    shapes = {"a": (2, 12), "b": (12,), "c": (12, 12), "d": (12,), "e": (12, 3)}
    params = {name: jax.random.normal(k, s) for k, (name, s) in zip(keys, shapes.items(), strict=False)}
    model = Classifier(net, params)
    x = np.asarray(jax.random.uniform(keys[5], (COUNT, 1, 2, 1), minval=0.1, maxval=0.9))
    y = np.asarray(jax.vmap(model)(x)).argmax(-1)
    side = np.linspace(-EPS, EPS, 161, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 1, 1, 2, 1)
    logits = np.asarray(jax.jit(jax.vmap(jax.vmap(model)))(x[None] + grid))
    others = np.where(np.eye(3, dtype=bool)[y], -np.inf, logits)
    smallest = (np.take_along_axis(logits, y[None, :, None], -1)[..., 0] - others.max(-1)).min(0)
    return model, x, y, smallest


def certified(text, plane, done={}):  # noqa: B006
    model, x, y, _ = plane
    if text not in done:
        certifier, budget = build("certifier", text), build("budget", f"linf({EPS})")
        done[text] = certifier.certify(jax.random.key(0), model, x, y, budget, ids=np.arange(len(x)), runtime=RUNTIME)
    return done[text]


def searched(model, region, known, problems, domains=10_000):
    found = search.Search(model, reduction.Reduction(model, region, known), problems, 5)
    found.begin()
    while found.open and found.domains.sum() < domains:
        found.split()
    return found


@pytest.mark.slow
def test_it_decides_every_point_as_a_fine_grid_does(plane):
    found, smallest = certified("branch_and_bound(timeout=60.0)", plane), plane[-1]
    assert 3 < np.sum(smallest > 0.05) < COUNT - 3
    assert found.certified[smallest > 0.05].all()
    assert not found.certified[smallest <= 0].any()
    assert (found.margin <= smallest + 1e-4).all()


def test_each_method_is_at_least_as_tight_as_the_one_before_and_none_passes_the_truth(plane):
    names = ("ibp", "crown_ibp", "crown", "alpha_crown", "branch_and_bound(timeout=60.0)")
    margins = [certified(name, plane).margin for name in names]
    whole = ~certified(names[-1], plane).attacked  # what is lost is not bounded further
    margins[-1] = np.where(whole, margins[-1], np.maximum(margins[-1], margins[-2]))
    for looser, tighter in zip(margins, margins[1:], strict=False):
        assert (looser <= tighter + 1e-5).all()
    assert all((margin <= plane[-1] + 1e-4).all() for margin in margins)
    assert (margins[0] < margins[2] - 1e-3).any() and (margins[2] < margins[3] - 1e-3).any()


def test_its_counterexamples_lie_in_the_region_and_are_misclassified(plane):
    model, x, y, _ = plane
    found = certified("branch_and_bound(timeout=60.0)", plane)
    assert found.attacked.any() and not (found.attacked & found.certified).any()
    x_adv = found.x_adv[found.attacked]
    assert np.abs(x_adv - x[found.attacked]).max() <= EPS + 1e-6
    assert (np.asarray(jax.vmap(model)(x_adv)).argmax(-1) != y[found.attacked]).all()


def test_without_time_it_says_what_alpha_crown_says(plane):
    """The roots are bounded even so."""
    quick, alpha = certified("branch_and_bound(timeout=1e-9)", plane), certified("alpha_crown", plane)
    assert (quick.margin >= alpha.margin - 1e-4)[~quick.attacked].all()
    assert (quick.margin <= plane[-1] + 1e-4).all()


@pytest.mark.slow
def test_a_conjunction_is_refuted_where_one_of_its_rows_is_positive_in_each_part(plane):
    """|x| + 0.1, x and -x: the largest is positive everywhere; less 0.2, the first alone does not save the middle."""
    model = Classifier(lambda params, x: jnp.stack([jnp.abs(x[0]) + 0.1, x[0], -x[0]]), {"unused": jnp.zeros(1)})
    region = boxed(jnp.array([-1.0]), jnp.array([1.0]))
    rows = np.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]], np.float32)

    def found(offset):
        known = bounding.plain(model, jax.tree.map(lambda leaf: leaf[None], region), rows)[1]
        known = jax.tree.map(lambda leaf: leaf[0], known)
        problems = search.Problems(rows, np.full((1, 3), offset, np.float32), np.full(1, 1e-5))
        return searched(model, region, known, problems)

    proof = found(0.0)
    assert proof.proved.all() and not proof.attacked
    proof = found(-0.2)
    assert proof.attacked and np.abs(proof.x_adv[0]) <= 0.1 + 1e-6


@pytest.mark.parametrize(
    "text",
    [
        "branch_and_bound(timeout=0.0)",
        "branch_and_bound(domains=0)",
        "branch_and_bound(inner_steps=-1)",
        "alpha_crown(steps=-1)",
    ],
)
def test_limits_that_are_none_are_errors(text):
    with pytest.raises(UserError, match="must be"):
        build("certifier", text)
