"""adaptive: what it sees of a model, and that it breaks what each mask hides, up to a factor of the exact radius."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from robustbench_jax.attacks.evasion.cascade import Cascade
from robustbench_jax.models.rejecting import Rejecting
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build, canonical
from robustbench_jax.types import Classifier, UserError, record
from tests import oracles
from tests.attacks.test_adaptive import Fickle, Quantised

NARROW = Runtime(width=16)
BITS = build("model_defence", "bit_depth(5)")


def attacked(text, model, data, eps):
    budget = build("budget", f"linf({eps})")
    return drive(jax.random.key(0), build("attack", text), model, budget, data.x, data.y, runtime=NARROW)


def knowing(text, model, data, eps):
    """All stages but the last, which asks for scores: it is slow to compile, and its tests are elsewhere."""
    budget = build("budget", f"linf({eps})")
    stages = build("attack", text).against(model, data.x.shape[1:]).stages(budget)[:-1]
    return drive(jax.random.key(0), Cascade(stages), model, budget, data.x, data.y, runtime=NARROW)


def names(text, model, data, budget="linf(0.1)"):
    attack = build("attack", text).against(model, data.x.shape[1:])
    return [stage.called for stage in attack.stages(build("budget", budget))]


def saturated(linear):
    """Logits times 1e5, as after training at a high temperature: the softmax of every image is 0 and 1."""
    return Classifier(oracles.affine, {name: 1e5 * value for name, value in linear.model.params.items()})


def test_without_a_model_it_is_the_attack_itself():
    attack = build("attack", "adaptive(pgd(steps=3))")
    assert attack.stages(build("budget", "linf(0.1)")) == (build("attack", "pgd(steps=3)"),)
    assert (attack.access, attack.budgets) == ("gradients", None)


def test_stages_say_what_was_seen(linear):
    data, front, draws = linear.data, BITS.protect(None, linear.model, None), Classifier(Fickle(), linear.model.params)
    assert names("adaptive(pgd)", linear.model, data) == ["pgd", "pgd, margin", "square"]
    assert names("adaptive(pgd)", front, data) == [
        *("pgd", "pgd, past the front", "pgd, past rounding"),
        *("pgd, margin, past the front", "pgd, margin, past rounding", "transfer pgd from the twin, margin", "square"),
    ]
    assert names("adaptive(pgd, samples=7)", draws, data) == ["pgd", "pgd, 7 draws", "pgd, margin, 7 draws", "square"]
    assert names("adaptive(pgd(loss='margin'))", linear.model, data) == ["pgd, margin", "square"]
    assert names("adaptive(deepfool)", linear.model, data) == ["deepfool", "pgd, margin", "square"]
    assert names("adaptive(pgd)", linear.model, data, "l0(3)") == ["pgd", "pgd, margin", "uniform_noise"]
    assert names("adaptive(apgd)", linear.model, data)[1] == "pgd, margin"  # dlr needs three classes
    assert names("adaptive(apgd)", *oracles.tiny())[1] == "apgd_dlr"
    assert names("cascade([fgsm, adaptive(pgd)])", linear.model, data) == ["fgsm", "pgd", "pgd, margin", "square"]


@pytest.mark.parametrize("shown", [pytest.param(True, marks=pytest.mark.slow), False], ids=["front", "inside"])
def test_it_breaks_a_quantised_model_that_the_static_attack_does_not(shown, linear):
    inside = Classifier(Quantised(levels=31), linear.model.params)
    hidden = Classifier(lambda params, x: inside.net(params, x), linear.model.params)
    model = BITS.protect(None, linear.model, None) if shown else hidden
    eps = 3.0 * float(np.median(linear.distance("linf")))
    clean = classify(model, linear.data.x) == linear.data.y
    static = attacked("pgd(steps=10, random_start=False)", model, linear.data, eps)
    found = knowing("adaptive(pgd(steps=10, random_start=False))", model, linear.data, eps)
    breakable = clean & (linear.distance("linf") < 0.4 * eps)
    assert breakable.sum() > 10 and not static.success[clean].any()
    assert found.success[breakable].all()
    past = "pgd, past the front" if shown else "pgd, past rounding"
    assert {stage.attack: stage.broken for stage in found.stages}[past] >= 0.9 * breakable.sum()


@pytest.mark.slow
def test_it_breaks_a_randomised_model_that_the_static_attack_does_not(linear):
    model, eps = Classifier(Fickle(), linear.model.params), 1.05 * float(np.median(linear.distance("linf")))
    static = attacked("pgd(steps=10)", model, linear.data, eps)
    found = knowing("adaptive(pgd(steps=10), samples=100)", model, linear.data, eps)
    breakable = linear.distance("linf") < 0.9 * eps
    assert found.success[breakable].mean() > 0.9
    assert static.success[breakable].mean() < found.success[breakable].mean() - 0.15
    assert not found.success[linear.distance("linf") > 1.0001 * eps].any()


def test_it_breaks_a_saturated_model_that_the_static_attack_does_not(linear):
    """The margin's gradient is as exact at any scale of the logits."""
    model, eps = saturated(linear), float(np.median(linear.distance("linf")))
    sure = linear.margin > 1e-2  # a softmax of exactly 0 and 1
    static = attacked("pgd(steps=10, random_start=False)", model, linear.data, eps)
    found = knowing("adaptive(pgd(steps=10, random_start=False))", model, linear.data, eps)
    assert not static.success[sure].any()
    np.testing.assert_array_equal(found.success, linear.distance("linf") < eps)


@record
class Watched:
    """Rejects images of which the first half of the pixels went together in the direction of `v`, either way."""

    v: jax.Array
    limit: float

    def excess(self, model, x, past):
        return 100.0 * (jnp.abs(jnp.sum(self.v * x.reshape(-1))) - self.limit)


def watched(linear):
    """The linear oracle with such a detector, the images that pass it, and the exact Linf radius of each of them: a
    linear program each.
    """
    w, x = linear.weights, as_unit(linear.data.x).reshape(len(linear.data), -1)
    v = np.where(np.arange(w.size) < w.size // 2, np.sign(w), 0.0)
    v -= v.mean()  # grey images have none of it
    limit = float(np.quantile(np.abs(x @ v), 0.2))
    passes = np.abs(x @ v) < limit
    data = dataclasses.replace(linear.data, x=linear.data.x[passes], y=linear.data.y[passes])
    model = Classifier(Rejecting(linear.model.net), (linear.model.params, Watched(jnp.float32(v), jnp.float32(limit))))
    rows = zip(x[passes], np.where(data.y == 0, 1.0, -1.0), linear.margin[passes], strict=True)
    return model, data, np.array([_smallest(x_i, w, sign, v, limit, margin) for x_i, sign, margin in rows])


def _smallest(x, w, sign, v, limit, margin):
    """min r over (d, r): sign w d >= margin, |v (x + d)| <= limit, |d| <= r, x + d in the box."""
    eye, ones = np.eye(len(w)), np.ones((len(w), 1))
    above = np.vstack([np.append(-sign * w, 0), np.append(v, 0), np.append(-v, 0)])
    rows = np.vstack([above, np.hstack([eye, -ones]), np.hstack([-eye, -ones])])
    right = np.concatenate([[-margin, limit - v @ x, limit + v @ x], np.zeros(2 * len(w))])
    bounds = [*zip(-x, 1 - x, strict=True), (0, None)]
    return linprog(np.append(np.zeros(len(w)), 1), rows, right, bounds=bounds).fun


def test_it_breaks_a_rejecting_model_that_the_attack_that_does_not_know_the_detector_does_not(linear):
    model, data, radius = watched(linear)
    eps = 1.5 * float(np.median(radius))
    static = attacked("transfer(pgd(steps=10, random_start=False), twin=True)", model, data, eps)
    found = knowing("adaptive(pgd(steps=40))", model, data, eps)
    assert found.success[radius < eps / 1.5].all() and found.success.sum() >= 6
    assert not static.success.any()
    assert not (found.success | static.success)[radius > 1.0001 * eps].any()


def test_transfer_from_the_twin_is_the_attack_on_the_twin(linear):
    model, eps = BITS.protect(None, linear.model, None), float(np.median(linear.distance("linf")))
    x_adv = attacked("transfer(fgsm, twin=True)", model, linear.data, eps).x_adv
    expected = attacked("transfer(fgsm, twin=True)", linear.model, linear.data, eps)
    np.testing.assert_array_equal(x_adv, expected.x_adv)
    np.testing.assert_array_equal(expected.success, linear.distance("linf") < eps)


def test_a_transfer_without_the_twin_keeps_its_identity():
    assert "twin" not in canonical("attack", 'transfer(fgsm, sources=[zoo("fashion_mnist/clean/standard")])')
    assert canonical("attack", "transfer(fgsm, twin=True)").endswith("twin=True)")


@pytest.mark.parametrize(
    "text, message",
    [
        ("adaptive(square)", "adaptive: attack = square uses no gradients; write e.g. adaptive"),
        ("adaptive(autoattack)", r"write cascade\(\[adaptive"),
        ("adaptive(pgd, queries=0)", "queries = 0 must be greater than 0"),
        ("eot(adaptive(pgd))", r"write cascade\(\[eot"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("attack", text)


@dataclass(frozen=True)
class Rounded:
    """Rounds inside, behind random numbers: those are made of whole numbers and round nothing."""

    stochastic = True
    rounded: bool

    def __call__(self, params, x, key):
        x = x + 0.01 * jax.random.uniform(key, x.shape)
        return oracles.affine(params, jnp.round(8 * x) / 8 if self.rounded else x)


@pytest.mark.parametrize("rounded", [True, False])
def test_the_whole_numbers_of_random_bits_are_no_rounding(rounded, linear):
    found = names("adaptive(pgd)", Classifier(Rounded(rounded), linear.model.params), linear.data)
    assert any("rounding" in name for name in found) == rounded
