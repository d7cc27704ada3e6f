"""Federated learning with liars: shards, attacks with known answers, and a run that breaks the mean alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from robustbench_jax.federation import shards
from robustbench_jax.models import build_model
from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import build, discover
from robustbench_jax.threats import byzantine
from robustbench_jax.types import UserError
from tests.threats import laboratory

KEY = jax.random.key(0)
ATTACKS = [name for name, e in discover("attack").items() if e.facts["threat"] == "byzantine"]
VECTORS = ("truthful", "sign_flip", "gaussian_vectors", "mimic", "ipm", "alie", "min_max", "min_sum")
HONEST = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


def sent(text, f=3, rule="coordinate_median"):
    def aggregate(v):
        return build("aggregation", rule).aggregate(KEY, v, f, jnp.zeros(6))

    return np.asarray(build("attack", text).send(KEY, jnp.asarray(HONEST), f, aggregate))


@pytest.mark.parametrize("dirichlet, each", [(0.0, 0), (1.0, 0), (0.0, 2)])
def test_clients_share_all_images_between_them(dirichlet, each):
    y = np.random.default_rng(0).integers(0, 5, 300)
    dealt = shards(KEY, y, 10, dirichlet, each)
    rows = np.concatenate([own[:size] for own, size in zip(dealt.rows, dealt.sizes, strict=True)])
    assert sorted(rows) == list(range(300))
    kinds = [len(set(y[own[:size]])) for own, size in zip(dealt.rows, dealt.sizes, strict=True)]
    assert max(kinds) <= 4 if each else min(kinds) >= 1
    if not dirichlet and not each:
        assert set(dealt.sizes) == {30} and min(kinds) >= 4


def test_a_client_without_images_is_refused():
    with pytest.raises(UserError, match="clients have no images"):
        shards(KEY, np.zeros(30, int), 25, 0.01, 0)


@pytest.mark.parametrize("text", VECTORS)
def test_an_attack_sends_as_many_vectors_as_there_are_liars(text):
    found = sent(text)
    assert found.shape == (3, 6) and np.isfinite(found).all()


def test_lies_are_those_of_the_papers():
    mean, deviation = HONEST.mean(0), HONEST.std(0, ddof=1)
    np.testing.assert_allclose(sent("sign_flip(2)")[0], -2 * mean, rtol=1e-5)
    np.testing.assert_allclose(sent("ipm(0.5)")[0], -0.5 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(sent("mimic")[2], HONEST[0])
    # n = 11, f = 3: s = 6 - 3 = 3 supporters, z the quantile of (8 - 3) / 8
    np.testing.assert_allclose(sent("alie")[0], mean - norm.ppf(5 / 8) * deviation, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sent("alie(1.5)")[0], mean - 1.5 * deviation, rtol=1e-4, atol=1e-5)


def test_an_optimised_lie_moves_the_aggregate_at_least_as_far_as_any_on_its_grid():
    def moved(text):
        rule = build("aggregation", "coordinate_median")
        every = jnp.concatenate([jnp.asarray(HONEST), jnp.asarray(sent(text))])
        return np.linalg.norm(rule.aggregate(KEY, every, 3, jnp.zeros(6)) - HONEST.mean(0))

    assert moved("alie(z=-1)") >= max(moved(f"alie({z})") for z in (0.1, 1.0, 2.0, 5.0)) - 0.05
    assert moved("ipm(tau=0)") >= max(moved(f"ipm({tau})") for tau in (0.1, 3.0, 10.0)) - 0.05


@pytest.mark.parametrize("direction", ["deviation", "mean", "sign"])
def test_lies_by_distance_are_as_far_as_honest_vectors_are_and_no_farther(direction):
    away = np.sum((HONEST[:, None] - HONEST) ** 2, -1)
    for name, size, limit in (
        ("min_max", lambda lie: np.max(np.sum((HONEST - lie) ** 2, -1)), away.max()),
        ("min_sum", lambda lie: np.sum((HONEST - lie) ** 2), away.sum(1).max()),
    ):
        lie = sent(f"{name}('{direction}')")[0]
        assert size(lie) <= limit * (1 + 1e-4)
        assert size(lie + 0.01 * (lie - HONEST.mean(0))) > limit


def test_a_replaced_model_is_what_the_liars_want_and_a_robust_rule_keeps_it_out():
    attack = build("attack", "model_replacement")
    assert attack.boost(10, 2) == 5 and build("attack", "client_label_flip").boost(10, 2) == 1
    assert fitted("mean", "model_replacement", 2)[0] < 0.4 < fitted("trimmed_mean", "model_replacement", 2)[0]


def fitted(rule, attack=None, f=0, seed=0, **options):
    data = laboratory.images(400)
    scale = np.array(data.x)
    scale[:, 0, 0, 0] *= 60  # so that the class is easy to see
    data = type(data)(scale, data.y, data.classes, data.name)
    model = build_model("mlp([])", (6, 6, 1), 4, jax.random.key(seed))
    text = ", ".join([rule, "clients=10", *(f"{k}={v}" for k, v in options.items())])
    defence = build("training", f"federated({text})")
    defence = defence if attack is None else defence.against(build("attack", attack), f)
    recipe = build("recipe", "sgd(epochs=30, batch_size=8, learning_rate=2.0, weight_decay=0)")
    model, curve = defence.fit(KEY, model, data, recipe)
    return np.mean(classify(model, data.x) == data.y), model, curve


def test_a_large_lie_ruins_the_mean_and_not_a_robust_rule():
    alone, _, curve = fitted("mean")
    assert alone > 0.8 and curve.loss[-1] < curve.loss[0]
    assert fitted("mean", "ipm(30.0)", 3)[0] < 0.5
    for rule in ("trimmed_mean", "nnm(krum)"):
        assert fitted(rule, "ipm(30.0)", 3)[0] > 0.7, rule


def test_no_liars_change_nothing_to_the_bit():
    _, honest, _ = fitted("trimmed_mean", declared=2)
    _, none, _ = fitted("trimmed_mean", "sign_flip", 0, declared=2)
    for name, value in honest.params.items():
        np.testing.assert_array_equal(value, none.params[name])


def test_flipped_labels_are_trained_on_by_the_liars_alone():
    assert fitted("mean", "client_label_flip", 3)[0] <= fitted("mean")[0]


class Trainer:
    def __init__(self, defence):
        self.defence = defence

    def __call__(self, data, *, controller=None, surrogate=None):
        defence = self.defence if controller is None else controller(self.defence)
        model = build_model("mlp([])", (6, 6, 1), 4, KEY)
        return defence.fit(KEY, model, data, build("recipe", "sgd(epochs=2, batch_size=4)"))[0]


def test_the_threat_compares_honest_clients_with_liars():
    lab = laboratory.lab()
    object.__setattr__(lab, "fit", Trainer(build("training", "federated(mean, clients=10)")))
    data = laboratory.images(50, seed=2)
    found = byzantine.run(KEY, lab, data, build("attack", "ipm"), build("budget", "byzantine(2)"))
    assert found.metrics["clean_model_accuracy"].n == 50 and found.arrays["robust"].shape == (50,)
    object.__setattr__(lab, "fit", Trainer(build("training", "standard")))
    with pytest.raises(UserError, match="defence 'standard' has no clients"):
        byzantine.run(KEY, lab, data, build("attack", "ipm"), build("budget", "byzantine(2)"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("federated(mean, clients=0)", "clients = 0 must be greater than 0"),
        ("federated(mean, dirichlet=-1.0)", "dirichlet = -1.0 must be at least 0"),
        ("federated(mean, dirichlet=0.5, classes_each=2)", "give one"),
        ("federated(mean, momentum=1.0)", "momentum = 1.0 must be at least 0 and below 1"),
        ("federated(median)", "no aggregation 'median'"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text)


def test_half_of_the_clients_or_more_are_too_many():
    with pytest.raises(UserError, match="fewer than half may be Byzantine"):
        fitted("mean", "ipm", 5)


def test_a_direction_that_there_is_not_is_named():
    with pytest.raises(UserError, match="min_max: direction = 'up'; there are: deviation, mean, sign"):
        build("attack", "min_max('up')")
