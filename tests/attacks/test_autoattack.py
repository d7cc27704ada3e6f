"""AutoAttack: which stages each version has, few classes, and verdicts of the reference on the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.bench.workshop import load_model
from robustbench_jax.data import load_dataset
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import build
from robustbench_jax.threats import evasion
from robustbench_jax.types import Classifier, Dataset, UserError
from tests.certify import oracle
from tests.oracles import affine, noise_images


def stages(attack: str, budget: str = "linf(0.1)") -> list:
    return list(build("attack", attack).stages(build("budget", budget)))


def test_the_standard_version_has_the_four_attacks_of_the_paper_in_their_order():
    ce, targeted, fab, square = stages("autoattack")
    assert [stage.called for stage in stages("autoattack")] == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert (ce.steps, ce.items) == (100, 1) and (targeted.steps, targeted.items) == (100, 9)
    assert (fab.steps, fab.items, fab.first) == (100, 9, True)
    assert (square.queries, square.items, square.area, square.rescale) == (5000, 1, 0.8, False)


def test_in_l1_the_first_attack_restarts_and_fewer_targets_are_tried():
    ce, targeted, fab, square = stages("autoattack", "l1(12)")
    assert (ce.registered[1], ce.items, ce.shrink) == ("apgd_l1", 5, True)
    assert (targeted.registered[1], targeted.items) == ("apgd_l1", 5)
    assert fab.items == 9 and square.queries == 5000


def test_plus_adds_restarts_the_untargeted_losses_and_all_boundaries():
    found = stages("autoattack('plus')")
    assert [stage.called for stage in found] == ["apgd_ce", "apgd_dlr", "fab", "square", "apgd_t", "fab_t"]
    assert [stage.items for stage in found] == [5, 5, 5, 1, 9, 9]


def test_rand_averages_gradients_over_draws():
    for budget in ("linf(0.1)", "l1(10)"):
        found = stages("autoattack('rand')", budget)
        assert len(found) == 2 and all("eot" in str(type(stage)).lower() for stage in found)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("budget", ["linf(0.3)", pytest.param("l1(8)", marks=pytest.mark.slow)])
def test_few_classes_are_handled(classes, budget):
    data = noise_images(12, (6, 6, 1), classes)
    w = jax.random.normal(jax.random.key(classes), (36, classes))
    model = Classifier(affine, {"w": w, "b": jnp.zeros(classes)})
    y = np.asarray(classify(model, data.x)).astype(np.int32)
    data = Dataset(data.x, y, data.classes, "noise")
    outcome = evasion.run(jax.random.key(0), model, data, build("attack", "autoattack"), build("budget", budget))
    assert outcome.metrics["robust_accuracy"].value == 0


def test_images_that_are_all_wrong_and_no_image_left_are_no_error(tiny):
    model, data = tiny
    wrong = Dataset(data.x, (data.y + 1) % 5, data.classes, "wrong")
    outcome = evasion.run(jax.random.key(0), model, wrong, build("attack", "autoattack"), build("budget", "linf(0.1)"))
    assert outcome.metrics["robust_accuracy"].value == 0 and outcome.stages == ()


@pytest.mark.slow
def test_a_later_stage_sees_only_what_earlier_ones_left(tiny):
    model, data = tiny
    attack, budget = build("attack", "autoattack"), build("budget", "linf(0.003)")
    outcome = evasion.run(jax.random.key(0), model, data.take(12), attack, budget)
    found, robust = outcome.stages, outcome.arrays["robust"]
    for before, after in zip(found, found[1:], strict=False):
        assert after["attacked"] == before["attacked"] - before["broken"]
    assert found[-1]["attacked"] - found[-1]["broken"] == robust.sum() > 0
    for number, stage in enumerate(found):
        assert (outcome.arrays["broken_by"] == number).sum() == stage["broken"]


def quantised(params, x):
    return affine(params, jnp.round(6 * x) / 6)


@pytest.mark.slow
@pytest.mark.parametrize("net, more", [(affine, 0), (quantised, 2)])
def test_the_fast_version_runs_fab_and_square_in_full_where_their_probes_find_something(net, more):
    """Rounding masks the gradients: APGD finds nothing, the probe by Square does."""
    data = noise_images(12, (6, 6, 1), 3)
    w = jax.random.normal(jax.random.key(3), (36, 3))
    model = Classifier(net, {"w": w, "b": jnp.array([3.0, 0.0, 0.0])})
    data = Dataset(data.x, np.asarray(classify(model, data.x)).astype(np.int32), data.classes, "noise")
    outcome = evasion.run(
        jax.random.key(0), model, data, build("attack", "autoattack('fast')"), build("budget", "linf(0.08)")
    )
    called = [stage["attack"] for stage in outcome.stages]
    assert called[: 4 + more] == ["apgd_ce", "apgd_t", "fab_t", "square", "fab_t", "square"][: 4 + more]
    assert len(called) == 4 + more and outcome.arrays["robust"].any()


REFERENCE = {  # robust accuracy of pyautoattack 0.2.0 (standard, seed 0), first 100 images: benchmark.py --peers
    ("fashion_mnist/linf/pgd_at", "linf(0.1)"): 0.74,
    ("fashion_mnist/linf/pgd_at", "l2(1)"): 0.59,
    ("fashion_mnist/linf/pgd_at", "l1(10)"): 0.27,
    ("fashion_mnist/clean/standard", "linf(0.01)"): 0.76,
    ("fashion_mnist/clean/standard", "l2(0.3)"): 0.60,
    ("fashion_mnist/clean/standard", "l1(3)"): 0.47,
}


@pytest.mark.slow
@pytest.mark.parametrize("name, budget", REFERENCE)
def test_the_verdict_is_the_references_to_half_a_point(name, budget):
    model, data = load_model(name), load_dataset("fashion_mnist_mini", limit=100)
    right = np.flatnonzero(classify(model, data.x) == data.y)
    attack = build("attack", "autoattack")
    found = drive(jax.random.key(0), attack, model, build("budget", budget), data.x[right], data.y[right], ids=right)
    assert np.sum(~found.success) / 100 <= REFERENCE[name, budget] + 0.005


def test_an_unknown_version_is_named():
    with pytest.raises(UserError, match="version = 'standart'; did you mean 'standard'"):
        build("attack", "autoattack('standart')")


def test_images_that_a_certifier_proves_are_not_attacked_and_the_verdicts_are_those_without_it(linear):
    """The exact certifier leaves those below the median margin: they alone are driven, and break as they did."""
    budget = build("budget", f"linf({float(np.median(linear.distance('linf')))})")
    given = jax.random.key(0), linear.model, linear.data
    without = evasion.run(*given, build("attack", "autoattack"), budget)
    with oracle.registered():
        outcome = evasion.run(*given, build("attack", "autoattack(certify_first=exact_linear)"), budget)
    certified, robust = outcome.arrays["certified"], outcome.arrays["robust"]
    assert 30 <= certified.sum() <= 32
    np.testing.assert_array_equal(robust, without.arrays["robust"])
    assert robust[certified].all() and not outcome.arrays["forwards"][certified].any()
    assert outcome.arrays["forwards"][~certified].all()
    np.testing.assert_array_equal(outcome.arrays["forwards"][~certified], without.arrays["forwards"][~certified])
    first, second, *_ = outcome.stages
    assert (first["attack"], first["attacked"], first["certified"]) == ("certify exact_linear", 64, certified.sum())
    assert first["seconds"] > 0 and second["attacked"] == 64 - certified.sum()
    assert set(outcome.arrays["broken_by"][~robust]) == {1}
    assert "certified" not in without.arrays
