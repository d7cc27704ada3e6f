"""Membership inference: laws of all attacks, oracles, and scores against independent computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from robustbench_jax.attacks.privacy.lira import fitted, views
from robustbench_jax.attacks.privacy.quantile_regression import described, ridge_regression
from robustbench_jax.attacks.privacy.shadow_classifier import logistic
from robustbench_jax.attacks.privacy.thresholds import modified_entropy
from robustbench_jax.ops.statistics import area_under_roc
from robustbench_jax.registry import build, discover
from robustbench_jax.suspects import Suspects, Victim, log_probability, margin
from robustbench_jax.types import Classifier, UserError, record
from tests import oracles

KEY = jax.random.key(0)
SHAPE, CLASSES, IMAGES, SHADOWS = (6, 6, 1), 4, 120, 8
CALLS = {
    "quantile_regression": "quantile_regression(8)",
    "label_noise": "label_noise(queries=4)",
    "label_shifts": "label_shifts(1)",
    "label_boundary": "label_boundary(rays=4)",
    "truth_serum": "truth_serum(lira, targets=10)",
}
ATTACKS = [CALLS.get(name, name) for name, e in discover("attack").items() if e.facts["threat"] == "membership"]
NEED_SHADOWS = [text for text in ATTACKS if build("attack", text).least]


@record
class Remembering:
    """Logits of a model that says the label of images that it remembers with more certainty, `extra` of it."""

    images: jax.Array
    labels: jax.Array
    base: jax.Array
    extra: float

    def __call__(self, params, x):
        near = jnp.all(jnp.abs(self.images - x) < 0.45, axis=(1, 2, 3))
        known = jnp.sum(near[:, None] * jax.nn.one_hot(self.labels, CLASSES), 0)
        return x.reshape(-1) @ self.base + self.extra * known


def remembering(data, rows, extra, seed=0):
    base = 0.3 * jax.random.normal(jax.random.key(seed), (36, CLASSES))
    net = Remembering(jnp.asarray(data.x[rows] / 255.0, jnp.float32), jnp.asarray(data.y[rows]), base, extra)
    return Classifier(Call(), {"net": net})


class Call:
    """A static net whose parameters are the model."""

    def __call__(self, params, x):
        return params["net"](params, x)


def suspects(extra=3.0, access="scores", members=None):
    data, population = oracles.noise_images(IMAGES, SHAPE, CLASSES, 0), oracles.noise_images(60, SHAPE, CLASSES, 1)
    members = np.arange(IMAGES) % 2 == 0 if members is None else members
    inside = np.zeros((SHADOWS, IMAGES), bool)
    for pair in range(SHADOWS // 2):
        order = np.random.default_rng(pair).permutation(IMAGES)
        inside[2 * pair, order[: IMAGES // 2]] = True
        inside[2 * pair + 1] = ~inside[2 * pair]
    shadows = tuple(remembering(data, rows, extra, 1 + i) for i, rows in enumerate(inside))
    return Suspects(data, population, Victim(remembering(data, members, extra), access), shadows, inside), members


def scored(text, extra=3.0, members=None):
    attack = build("attack", text)
    asked, inside = suspects(extra, attack.access, members)
    return attack.score(KEY, asked), inside, asked


@pytest.mark.parametrize("text", ATTACKS)
def test_there_is_one_finite_score_for_each_image_and_the_same_for_the_same_key(text):
    found, _, asked = scored(text)
    assert found.shape == (IMAGES,) and np.isfinite(found).all() and asked.victim.queries >= IMAGES
    np.testing.assert_array_equal(found, scored(text)[0])


@pytest.mark.parametrize("text", [text for text in ATTACKS if "shifts" not in text])  # it remembers no shifted image
def test_a_model_that_remembers_everything_gives_its_members_away(text):
    found, members, _ = scored(text, extra=60.0)
    limit = 0.7 if build("attack", text).access == "labels" else 0.99
    assert area_under_roc(found[~members], found[members])[0] > limit


@pytest.mark.parametrize("text", ATTACKS)
def test_a_model_that_remembers_nothing_gives_no_one_away(text):
    areas = []
    for seed in range(3):
        members = np.random.default_rng(seed).permutation(np.arange(IMAGES) % 2 == 0)
        found, members, _ = scored(text, 0.0, members)
        areas.append(area_under_roc(found[~members], found[members])[0])
    assert abs(np.mean(areas) - 0.5) < 0.12


@pytest.mark.parametrize("text", ATTACKS)
def test_an_attack_on_labels_is_told_labels_alone(text):
    attack = build("attack", text)
    asked, _ = suspects(access="labels")
    if attack.access == "labels":
        np.testing.assert_array_equal(attack.score(KEY, asked), attack.score(KEY, suspects(3.0, "scores")[0]))
    assert set(np.unique(asked.own)) == {0.0, 1.0}


def test_margins_do_not_saturate():
    """In float32 log(1e-45) is minus infinity, and a probability of 1 - 1e-9 is 1: margins from logits are neither."""
    logits = np.array([[300.0, 0, -5], [-300.0, 0, 2]])
    assert np.isfinite(margin(logits, np.array([0, 0]))).all()
    np.testing.assert_allclose(
        margin(logits, np.array([0, 0])), [300 - np.log(1 + np.exp(-5)), -300 - 2 - np.log1p(np.exp(-2))]
    )
    probability = np.exp(logits[1] - 2) / np.exp(logits[1] - 2).sum()
    assert log_probability(logits[1:], np.array([2]))[0] == pytest.approx(np.log(probability[2]))


def test_lira_is_the_likelihood_ratio_of_two_normals():
    """Against a computation of our own, image by image, in the three variants."""
    asked, _ = suspects()
    own, theirs = margin(asked.own, asked.data.y), margin(asked.theirs, asked.data.y)
    online, each, offline = [], [], []
    groups = [[theirs[asked.members[:, i] == side, i] for i in range(IMAGES)] for side in (True, False)]
    pooled = [np.sqrt(sum(np.sum((g - g.mean()) ** 2) for g in of) / sum(len(g) - 1 for g in of)) for of in groups]
    for i in range(IMAGES):
        inside, outside = groups[0][i], groups[1][i]
        middles = np.median(inside), np.median(outside)
        online.append(norm.logpdf(own[i], middles[0], pooled[0]) - norm.logpdf(own[i], middles[1], pooled[1]))
        each.append(norm.logpdf(own[i], middles[0], inside.std()) - norm.logpdf(own[i], middles[1], outside.std()))
        offline.append(-norm.logsf(own[i], middles[1], pooled[1]))
    for text, expected in (("lira", online), ("lira('example')", each), ("lira_offline", offline)):
        np.testing.assert_allclose(build("attack", text).score(KEY, asked), expected, rtol=1e-6)


def test_an_uncommonly_small_margin_is_no_sign_of_a_member():
    """The two-sided density of the reference code takes it for one."""
    theirs, among = np.random.default_rng(0).normal(size=(16, 3)), np.ones((16, 3), bool)
    own = np.array([-5.0, 0.0, 5.0])
    score = build("attack", "lira_offline").ratio(own, theirs, ~among)
    assert score[0] < score[1] < score[2]
    assert norm.logpdf(-5.0, *(v[0] for v in fitted(theirs, among, "global"))) < -10


def test_rmia_is_the_share_of_the_population_that_is_known_less_well():
    asked, _ = suspects()
    own, theirs = (np.exp(log_probability(logits, asked.data.y)) for logits in (asked.own, asked.theirs))
    z_own = np.exp(log_probability(asked.victim.ask(asked.population.x), asked.population.y))
    z = np.exp(log_probability(asked.of_shadows(asked.population.x), asked.population.y)).mean(0)
    for text, gamma, a in (("rmia(gamma=1.5)", 1.5, None), ("rmia_offline(0.4, 1.5)", 1.5, 0.4)):
        expected = []
        for i in range(IMAGES):
            outside = theirs[~asked.members[:, i], i].mean()
            p = (theirs[asked.members[:, i], i].mean() + outside) / 2 if a is None else ((1 + a) * outside + 1 - a) / 2
            base = z if a is None else ((1 + a) * z + 1 - a) / 2
            expected.append(np.mean(own[i] / p / (z_own / base) >= gamma))
        np.testing.assert_allclose(build("attack", text).score(KEY, asked), expected, atol=1e-6)


def test_the_modified_entropy_is_that_of_its_definition():
    logits = np.random.default_rng(0).normal(size=(5, 4)) * 3
    y = np.array([0, 1, 2, 3, 0])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = [
        -(1 - p[i, y[i]]) * np.log(p[i, y[i]]) - sum(p[i, c] * np.log(1 - p[i, c]) for c in range(4) if c != y[i])
        for i in range(5)
    ]
    np.testing.assert_allclose(modified_entropy(logits, y), expected, rtol=1e-9)
    assert np.isfinite(modified_entropy(np.array([[500.0, 0, 0, 0]]), np.array([0]))).all()


def test_the_logistic_regression_has_no_gradient_left():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(80, 3)), rng.random(80) < 0.4
    w = logistic(x, labels, 0.1)
    full = np.concatenate([x, np.ones((80, 1))], 1)
    slope = full.T @ (1 / (1 + np.exp(-full @ w)) - labels) / 80 + 0.1 * w
    assert np.abs(slope).max() < 1e-4


def test_quantiles_follow_the_image_where_its_margin_does():
    """Margins whose mean and spread are linear in an image: what is left has no trend and one spread."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (600, *SHAPE)).astype(np.uint8), np.arange(600) % CLASSES
    of = described(x, CLASSES, 6)
    seen = of(x, y)
    known = 2 * seen[:, 0] + np.exp(0.5 * seen[:, 1]) * rng.normal(size=600) + y
    mean = ridge_regression(seen, known, 1e-3)
    assert mean[0] == pytest.approx(2, abs=0.3) and mean[-1] - mean[-4] == pytest.approx(3, abs=0.5)
    spread = ridge_regression(seen, np.log((known - seen @ mean) ** 2), 1e-3)
    assert spread[1] == pytest.approx(1.0, abs=0.3)


def test_views_are_shifts_and_training_with_them_costs_queries():
    x = oracles.noise_images(3, SHAPE, CLASSES, 0).x
    found = views(x, 1)
    assert len(found) == 5
    np.testing.assert_array_equal(found[1][:, 1:], x[:, :-1])
    np.testing.assert_array_equal(found[4][:, :, :-1], x[:, :, 1:])
    asked, _ = suspects()
    build("attack", "lira(shifts=1)").score(KEY, asked)
    assert asked.victim.queries == 5 * IMAGES


@pytest.mark.parametrize(
    "text, message",
    [
        ("lira('local')", "lira: variance = 'local'; there are: global, example"),
        ("lira(shifts=-1)", "lira: shifts = -1 must be at least 0"),
        ("rmia(gamma=0)", "rmia: gamma = 0.0 must be greater than 0"),
        ("rmia_offline(a=2)", "rmia_offline: a = 2.0 must be from 0 to 1"),
        ("label_boundary(rays=0)", "label_boundary: rays = 0 must be greater than 0"),
        ("label_noise(queries=0)", "label_noise: queries = 0 must be greater than 0"),
        ("quantile_regression(components=0)", "quantile_regression: components = 0 must be at least 1"),
        ("truth_serum(pgd)", "truth_serum: attack = pgd is no attack on membership"),
        ("truth_serum(truth_serum)", "truth_serum: attack = truth_serum is no attack on membership that it can help"),
        ("truth_serum(copies=-1)", "truth_serum: copies = -1 must be at least 0"),
        ("truth_serum(targets=0)", "truth_serum: targets = 0 must be greater than 0"),
        ("shadow_classifier(ridge=0)", "shadow_classifier: ridge = 0.0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("attack", text)


def test_shadow_models_come_in_pairs():
    with pytest.raises(UserError, match="shadows: n = 3 must be even"):
        build("budget", "shadows(3)")


def test_poisons_are_copies_of_the_targets_with_one_wrong_label_each():
    data, attack = (
        oracles.noise_images(40, SHAPE, CLASSES, 0),
        build("attack", "truth_serum(lira, copies=3, targets=10)"),
    )
    rows = attack.in_question(KEY, 40)
    assert len(set(rows.tolist())) == 10 and np.array_equal(rows, attack.in_question(KEY, 40))
    made = attack.poisons(KEY, data.rows(rows))
    assert made.x.shape == (30, *SHAPE) and made.y.dtype == data.y.dtype
    labels = made.y.reshape(3, 10)
    assert (labels == labels[0]).all() and (labels[0] != data.y[rows]).all()
    np.testing.assert_array_equal(made.x.reshape(3, 10, *SHAPE), np.stack([data.x[rows]] * 3))
    assert len(build("attack", "truth_serum(copies=0, targets=10)").poisons(KEY, data.rows(rows))) == 0
    with pytest.raises(UserError, match="targets = 30: there are 40 images; take at most half"):
        build("attack", "truth_serum(targets=30)").in_question(KEY, 40)


def test_distances_to_the_boundary_are_those_of_a_linear_model():
    """On the way from x to z a linear margin m falls to that of z: the boundary is at m(x) / (m(x) - m(z))."""
    data, others = (oracles.noise_images(40, SHAPE, 2, seed) for seed in (0, 1))
    weights = np.random.default_rng(0).normal(size=36).astype(np.float32)
    linear = Classifier(lambda params, x: jnp.stack([x.reshape(-1) @ params, 0.0 * x.sum()]), jnp.asarray(weights))

    def along(x):
        return (x.reshape(len(x), -1) / 255.0) @ weights

    at, far = along(data.x), along(others.x)
    asked = Suspects(data, others, Victim(linear, "labels"), (), np.zeros((0, 40), bool))
    found = build("attack", "label_boundary(rays=200, steps=12)").score(KEY, asked)
    expected = np.zeros(40)
    for i in range(40):
        sign = 1 if data.y[i] == 0 else -1
        if sign * at[i] > 0 or (data.y[i] == 1 and at[i] == 0):
            ends = np.flatnonzero(sign * far < 0)
            lengths = np.sqrt(np.sum((others.x[ends] / 255.0 - data.x[i] / 255.0) ** 2, axis=(1, 2, 3)))
            expected[i] = np.min(at[i] / (at[i] - far[ends]) * lengths)
    assert (expected == 0).any() and (expected > 0).sum() > 10
    np.testing.assert_allclose(found, expected, atol=0.02)  # pixels are whole numbers


def test_a_model_with_one_answer_has_no_boundary():
    data = oracles.noise_images(20, SHAPE, CLASSES, 0)
    one = Classifier(lambda params, x: params + 0 * x.sum(), jnp.asarray([1.0, 0, 0, 0]))
    asked = Suspects(data, data, Victim(one, "labels"), (), np.zeros((0, 20), bool))
    np.testing.assert_array_equal(build("attack", "label_boundary").score(KEY, asked), np.where(data.y == 0, 6.0, 0.0))
