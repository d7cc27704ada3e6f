"""Randomised smoothing against closed forms: a linear model's radius, the cap of k = n, binomial failure rates."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from robustbench_jax import registry
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.bench.runner import papers
from robustbench_jax.certify.smoothing import Votes
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.ops.statistics import clopper_pearson_lower
from robustbench_jax.registry import build, canonical, register
from robustbench_jax.types import Classifier, Dataset, UserError, record
from tests import oracles

NARROW = Runtime(width=64, devices=1)


def certified(text, model, data, budget="l2(0.1)", *, seed=0, ids=None, runtime=NARROW, **options):
    made, ids = build("certifier", f"randomized_smoothing({text})"), np.arange(len(data.y)) if ids is None else ids
    given = jax.random.key(seed), model, data.x, data.y, build("budget", budget)
    return made.certify(*given, ids=ids, runtime=runtime, **options)


def constant(params, x):
    return params + 0 * x.sum()


def step(params, x):
    """Class 1 right of the threshold, of an image of one entry."""
    return jnp.stack([params - x.sum(), x.sum() - params])


def right_of(threshold):
    return Classifier(step, jnp.float32(threshold))


def line(x):
    """Images of one entry, all of class 1."""
    return Dataset(x.astype(np.float32).reshape(-1, 1, 1, 1), np.ones(len(x), np.int32), ("0", "1"), "line")


def always(*logits):
    data = Dataset(np.zeros((8, 2, 2, 1), np.uint8), np.zeros(8, np.int32), ("0", "1"), "constant")
    return Classifier(constant, np.array(logits, np.float32)), data


def test_no_radius_of_a_linear_model_exceeds_its_distance_but_at_the_rate_alpha_and_all_come_near():
    """p is Phi(distance / sigma), so that the exact radius of the smoothed model is the distance itself."""
    linear = oracles.linear(320)
    exact = linear.distance("l2")
    found = certified("sigma=0.1, n0=50, n=1000, alpha=0.05", linear.model, linear.data)
    right = found.prediction == linear.data.y
    assert right[exact > 0.04].all() and (exact > 0.04).sum() > 200
    over = np.mean(found.radius[right] > exact[right])
    assert 0 < over < 0.05 + 3 * math.sqrt(0.05 * 0.95 / right.sum())
    # the bound lies about 1.64 standard errors below the share seen, which itself has one of scatter
    p = stats.norm.cdf(exact[right] / 0.1)
    near = p - 5.5 * np.sqrt(p * (1 - p) / 1000) - 0.005
    assert np.all(found.radius[right] >= 0.1 * stats.norm.ppf(np.maximum(near, 0.5)))
    np.testing.assert_array_equal(found.certified, right & (found.radius >= 0.1))


def test_the_uniform_radius_in_one_dimension_is_the_distance_to_the_threshold():
    """P(x + U[-lambda, lambda] > 1/2) = 1/2 + (x - 1/2) / (2 lambda): 2 lambda (p - 1/2) = x - 1/2 exactly."""
    data = line(np.linspace(0.52, 0.98, 160))
    x = data.x
    sigma, exact = 0.6 / math.sqrt(3), x.ravel() - 0.5  # lambda = 0.6
    found = certified(f"{sigma!r}, n=2000, alpha=0.05, noise='uniform'", right_of(0.5), data, "l1(0)")
    sure = found.prediction == 1
    assert sure[exact > 0.1].all()
    assert 0 < np.mean(found.radius[sure] > exact[sure]) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / sure.sum())
    np.testing.assert_allclose(found.radius[exact > 0.1], exact[exact > 0.1], atol=0.09)


@pytest.mark.parametrize("n, alpha, looks", [(20, 0.001, 1), (1000, 0.001, 1), (500, 0.05, 2)])
def test_votes_that_all_agree_give_the_largest_radius_there_is(n, alpha, looks):
    model, data = always(1.0, 0.0)
    text, most = f"0.25, n0=5, n={n}, alpha={alpha}, looks={looks}", (alpha / looks) ** (1 / n)
    radius = 0.25 * stats.norm.ppf(most)
    found = certified(text, model, data, f"l2({float(radius - 1e-9)})")
    np.testing.assert_allclose(found.radius, radius, rtol=1e-9)
    assert found.certified.all() and not found.flags
    radius = 0.25 * math.sqrt(3) * (2 * most - 1)
    found = certified(f"{text}, noise='uniform'", model, data, f"l1({radius - 1e-9})")
    np.testing.assert_allclose(found.radius, radius, rtol=1e-9)
    assert found.certified.all()


def test_a_radius_beyond_what_the_samples_can_certify_is_flagged():
    model, data = always(1.0, 0.0)
    found = certified("0.25, n0=5, n=1000, looks=3", model, data, "l2(3)")
    assert not found.certified.any() and "certify no radius above 0.6025; 3 is asked" in found.flags[0]
    np.testing.assert_array_equal(found.prediction, 0)
    assert (found.evidence["samples"] == 62).all()  # no more than the prediction takes


def test_published_settings_have_the_cap_of_3_8115_sigma():
    made = build("certifier", "randomized_smoothing(1.0, n=100000)")
    assert made.radius(made._bounds(np.array([100_000]), 100_000))[0] == pytest.approx(3.8115, abs=5e-5)


def test_a_radius_equal_to_the_budgets_is_certified_and_the_next_larger_is_not():
    model, data = always(1.0, 0.0)
    radius = certified("0.25, n0=5, n=50", model, data, "l2(0.1)").radius[0].item()
    assert certified("0.25, n0=5, n=50", model, data, f"l2({radius!r})").certified.all()
    assert not certified("0.25, n0=5, n=50", model, data, f"l2({math.nextafter(radius, 1)!r})").certified.any()


def test_a_wrong_class_keeps_its_radius_and_is_not_certified():
    model, data = always(0.0, 1.0)
    found = certified("n0=5, n=100", model, data)
    assert (found.prediction == 1).all() and (found.radius > 0.1).all() and not found.certified.any()


def test_images_on_the_boundary_abstain_but_at_the_rate_alpha():
    data = line(np.full(300, 0.5))
    found = certified("n0=1, n=200, alpha=0.05", right_of(0.5), data, "l2(0)")
    sure = found.prediction != -1
    assert np.mean(sure) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert not found.certified[~sure].any() and (found.radius[~sure] == 0).all()


def test_the_class_comes_from_the_selection_alone_and_its_bound_from_other_samples():
    """One selection sample often chooses the rarer class; then the estimation must abstain, not change sides."""
    data = line(np.full(64, 0.6))
    found = certified("0.25, n0=1, n=1000", right_of(0.5), data, "l2(0)")
    rarer = found.evidence["successes"] < 500
    share = stats.norm.cdf(-0.1 / 0.25)
    assert abs(rarer.mean() - share) < 4 * math.sqrt(share * (1 - share) / 64)
    assert (found.prediction[rarer] == -1).all() and (found.prediction[~rarer] == 1).all()


def test_batches_order_and_devices_do_not_matter(tiny):
    model, data = tiny
    text = "0.3, n0=20, n=150, looks=2"
    found = certified(text, model, data)
    order = np.random.default_rng(0).permutation(len(data))[:19]
    part = type(data)(data.x[order], data.y[order], data.classes, data.name)
    for runtime in (NARROW, Runtime(width=16, devices=2)):
        again = certified(text, model, part, ids=order, runtime=runtime)
        for name in ("prediction", "radius", "certified"):
            np.testing.assert_array_equal(getattr(again, name), getattr(found, name)[order])
    assert len(np.unique(found.evidence["successes"])) > 5
    assert not np.array_equal(certified(text, model, data, seed=1).radius, found.radius)


def test_devices_exchange_nothing_while_they_count(tiny):
    """A collective in a deep queue of CPU programs waits for threads that wait for it."""
    model, data = tiny
    votes = Votes(
        model, data.x, np.arange(32), build("certifier", "randomized_smoothing"), Runtime(width=16, devices=2)
    )
    work = votes.place(tuple(np.zeros((16, votes.batches), np.int32) for _ in range(2)))
    compiled = votes.vote.func.lower(
        jax.random.key(0), votes.held, votes.place(votes.empty), *work, 0.25, **votes.vote.keywords
    ).compile()
    assert "num_partitions=2" in compiled.as_text()
    assert not [name for name in ("all-reduce", "all-gather", "permute", "all-to-all") if name in compiled.as_text()]


@pytest.mark.parametrize("looks", [1, 3])
def test_the_evidence_gives_the_radius_again_and_the_counts_add_up(tiny, looks):
    model, data = tiny
    told = []
    found = certified(f"0.3, n0=20, n=150, alpha=0.01, looks={looks}", model, data, report=told.append)
    votes = zip(found.evidence["successes"], found.evidence["samples"], strict=True)
    p = np.array([clopper_pearson_lower(int(k), int(n), 0.01 / looks) for k, n in votes])
    np.testing.assert_allclose(found.radius, np.where(p > 0.5, 0.3 * stats.norm.ppf(p), 0))
    np.testing.assert_array_equal(found.prediction == -1, p <= 0.5)
    assert found.failure == 0.01
    if looks == 1:
        assert found.counts == {"forward_evaluations": len(data) * 170}
    assert told[-1] == len(data) and len(found.seconds) == len(data)


def test_the_votes_are_those_of_images_with_unclipped_noise():
    """Of a black image Phi(0.4) of the copies lie above -0.1; cut at 0, all of them would."""
    black = line(np.zeros(32))
    found = certified("0.25, n0=1, n=1000", right_of(-0.1), black, "l2(0)")
    share = np.mean(np.maximum(found.evidence["successes"], 1000 - found.evidence["successes"])) / 1000
    assert share == pytest.approx(stats.norm.cdf(0.1 / 0.25), abs=4 * 0.5 / math.sqrt(32_000))


class Flip:
    """A randomised net: class 0 with the probability that its parameter says."""

    stochastic = True

    def __call__(self, params, x, key):
        return jnp.where(jax.random.uniform(key) < params, jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))


def test_a_randomised_model_draws_anew_for_every_copy():
    data = line(np.zeros(64))
    found = certified("0.25, n0=50, n=1000", Classifier(Flip(), jnp.float32(0.8)), data, "l2(0.1)")
    shares = found.evidence["successes"] / 1000
    assert (found.prediction == 0).all() and np.mean(shares) == pytest.approx(0.8, abs=4 * 0.4 / math.sqrt(64_000))
    assert np.std(shares) == pytest.approx(0.4 / math.sqrt(1000), rel=0.4)


@dataclass
class Coin:
    """In place of Votes: class 0 with probability p for each image, drawn on the host."""

    p: np.ndarray
    seed: int = 0

    def __post_init__(self):
        self.count, self.random = len(self.p), np.random.default_rng(self.seed)

    def more(self, key, images, first, until):
        found = np.zeros((self.count, 3), np.int64)
        found[images, 0] = self.random.binomial(until - first, self.p[images])
        found[images, 1] = until - first - found[images, 0]
        return found


@pytest.mark.parametrize("looks", [1, 4])
def test_early_stopping_certifies_falsely_at_most_at_the_rate_alpha(looks):
    """Images whose true p is just what eps needs, or just short of 1/2 for predictions: every success is a failure."""
    made = build("certifier", f"randomized_smoothing(0.25, n=1000, alpha=0.05, looks={looks})")
    for eps in (0.0, 0.1, 0.4):
        coin = Coin(np.full(20_000, made.needed(eps) - 1e-9))
        top, p, *_ = made._settle(jax.random.key(0), coin, eps)
        false = np.mean((top == 0) & (p > 0.5) & (made.radius(p) >= eps))
        assert false <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 20_000)
        assert false > 0.01  # and it is no empty promise


def test_early_stopping_saves_samples_and_loses_few_certificates():
    p, eps = np.repeat([0.6, 0.95, 0.999], 500), 0.25
    once = build("certifier", "randomized_smoothing(0.25)")
    often = build("certifier", "randomized_smoothing(0.25, looks=4)")
    results = []
    for made in (once, often):
        top, low, *_, samples = made._settle(jax.random.key(0), Coin(p), eps)
        results.append(((top == 0) & (made.radius(low) >= eps), low > 0.5, samples))
    (certified_once, sure_once, full), (certified_often, sure_often, samples) = results
    np.testing.assert_array_equal(certified_once, p > made.needed(eps))
    np.testing.assert_array_equal(certified_often, certified_once)
    np.testing.assert_array_equal(sure_often, sure_once)
    assert (full == 10_000).all() and samples[p == 0.999].max() <= 156
    assert samples[p == 0.6].mean() < 1000


@record
class Gain:
    """A denoiser for tests: multiplies images by `gain`."""

    gain: float = 0.0
    flat: bool = False

    def load(self):
        return Classifier(flat_gain if self.flat else plain_gain, jnp.float32(self.gain)), {}


def plain_gain(gain, x):
    return gain * x


def flat_gain(gain, x):
    return (gain * x).ravel()


@pytest.fixture
def gain():
    registry.discover("pretrained")
    register("pretrained", "gain")(Gain)
    yield
    del registry._entries["pretrained"]["gain"]


@pytest.mark.parametrize("flat", ["False", "True"])
def test_the_denoiser_sees_the_noisy_copies_before_the_model_does(gain, flat):
    """A model at the threshold 0.3 behind a denoiser that halves images has its threshold at 0.6."""
    data = line(np.linspace(0, 1, 16))
    text = "0.2, n0=20, n=400, denoiser={}"
    behind = certified(text.format(f"gain(0.5, flat={flat})"), right_of(0.3), data)
    direct = certified(text.format("None"), right_of(0.6), data)
    np.testing.assert_array_equal(behind.evidence["successes"], direct.evidence["successes"])
    np.testing.assert_array_equal(behind.radius, direct.radius)


def test_the_denoiser_may_be_an_onnx_file(tmp_path):
    onnx_made = pytest.importorskip("tests.models.onnx_made")
    nodes = [onnx_made.node("Mul", "x half", "halved"), onnx_made.node("Flatten", "halved")]
    path = onnx_made.save(onnx_made.model(nodes, ("N", 1, 1, 1), {"half": np.float32([0.5])}), tmp_path)
    data = line(np.linspace(0, 1, 16))
    behind = certified(f"0.2, n0=20, n=400, denoiser=onnx({path!r})", right_of(0.3), data)
    direct = certified("0.2, n0=20, n=400", right_of(0.6), data)
    np.testing.assert_array_equal(behind.radius, direct.radius)


def test_a_denoiser_that_makes_no_images_is_named(gain):
    model, data = oracles.tiny()
    with pytest.raises(UserError, match=r"the denoiser makes \[12\] of images \[2, 2, 3\]"):
        colours = oracles.noise_images(4, (2, 2, 3), 5)
        certified("n=50, denoiser=gain(flat=True)", model, colours)


def test_a_call_string_names_the_denoiser():
    text = 'randomized_smoothing(0.5, denoiser=zoo("fashion_mnist/clean/standard"))'
    assert "denoiser=zoo(name='fashion_mnist/clean/standard')" in canonical("certifier", text)
    assert "denoiser=None" in canonical("certifier", "randomized_smoothing")


def test_a_cell_names_the_papers_of_its_certifier_with_and_without_a_denoiser():
    cell = {"dataset": "fashion_mnist_mini", "model": "fashion_mnist/clean/standard", "budget": "l2(0.1)"}
    for text in ("randomized_smoothing", 'randomized_smoothing(denoiser=zoo("fashion_mnist/clean/standard"))'):
        assert "cohen2019" in papers(make_cell(**cell, certifier=text))
    with pytest.raises(UserError, match="certifier 'randomized_smoothing' takes no budget 'l1'"):
        make_cell(**cell | {"budget": "l1(0.1)"}, certifier="randomized_smoothing")


def test_logits_that_are_no_numbers_are_no_votes():
    model, data = always(0.0, 1.0)
    with pytest.raises(UserError, match="logits are NaN or infinite for 40 noisy images"):
        certified("n0=5, n=50", model.replace(params=np.array([np.nan, 1.0], np.float32)), data)


@pytest.mark.parametrize(
    "text, message",
    [
        ("sigma=0", "sigma = 0.0 must be greater than 0"),
        ("n0=0", "n0 = 0 must be greater than 0"),
        ("looks=0", "looks = 0 must be greater than 0"),
        ("alpha=0.0", "alpha = 0.0 must lie between 0 and 1"),
        ("alpha=1.0", "alpha = 1.0 must lie between 0 and 1"),
        ("n=9", "n = 9 samples always abstain; alpha = 0.001 needs 10 or more"),
        ("n=60, looks=4", "looks = 4: n = 60 cannot be divided by 4 so often"),
        ("noise='gausian'", "did you mean 'gaussian'"),
        ("denoiser='zo'", "no pretrained 'zo'"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("certifier", f"randomized_smoothing({text})")


@pytest.mark.parametrize(
    "noise, budget, message",
    [
        ("gaussian", "l1(1)", "'gaussian' certifies l2, not l1; for l1 take noise='uniform'"),
        ("uniform", "l2(1)", "'uniform' certifies l1, not l2; for l2 take noise='gaussian'"),
        ("gaussian", "linf(0.1)", "'gaussian' certifies l2, not linf$"),
    ],
)
def test_noise_and_budget_must_go_together(noise, budget, message, tiny):
    with pytest.raises(UserError, match=message):
        certified(f"noise='{noise}'", *tiny, budget)


def test_the_fewest_samples_that_are_allowed_can_predict():
    model, data = always(1.0, 0.0)
    assert (certified("n0=1, n=10", model, data, "l2(0)").prediction == 0).all()
