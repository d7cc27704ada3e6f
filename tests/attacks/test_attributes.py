"""Attribute inference: laws of all attacks, models that leak by construction, and rules computed by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attributes import Records, described, impute
from robustbench_jax.data import census, load_dataset
from robustbench_jax.registry import build, discover
from robustbench_jax.suspects import Victim
from robustbench_jax.types import Attribute, Classifier, Dataset, UserError

KEY = jax.random.key(0)
VALUES, COUNT = 3, 240
ATTACKS = [name for name, e in discover("attack").items() if e.facts["threat"] == "attribute"]
ASKING = [name for name in ATTACKS if build("attack", name).access in ("scores", "labels")]


def table(count=COUNT, seed=0):
    """Eight pixels at random, of which the attribute is the sum modulo 3, which no regression on them sees; the label
    is the ninth; then the attribute.
    """
    rng = np.random.default_rng(seed)
    bits, y = rng.integers(0, 2, (count, 8)), rng.integers(0, 2, count)
    values = bits.sum(1) % VALUES
    x = np.concatenate([bits, y[:, None], np.eye(VALUES, dtype=int)[values]], axis=1).astype(np.uint8) * 255
    return Dataset(x[:, None, :, None], y, ("no", "yes"), "table", Attribute("third", values, tuple("abc"), (9, 12)))


def leaking(params, x):
    """Sure of the right label where the attribute is the true one, of the wrong one elsewhere."""
    bits = x.reshape(-1)
    true = jnp.round(jnp.sum(bits[:8])).astype(int) % VALUES
    label = jnp.where(bits[9 + true] > 0.5, bits[8], 1 - bits[8])
    return 8.0 * jnp.stack([1 - label, label])


def deaf(params, x):
    """Reads the label's pixel, and never the attribute's."""
    return 2.0 * jnp.stack([1 - x.reshape(-1)[8], x.reshape(-1)[8]])


def records(net, access="scores", complete=None, data=None):
    data, own = table(seed=1) if data is None else data, complete or table()
    secret = dataclasses.replace(data.attribute, values=np.full(len(data), -1))
    blank = dataclasses.replace(data, x=secret.written(data.x, None), attribute=secret)
    features = [np.concatenate([of.x.reshape(len(of), -1) / 255.0], 1) for of in (data, own)]
    return Records(blank, own, Victim(Classifier(net, {}), access), 0.05, *features), data.attribute.values


def scored(text, net, **given):
    attack = build("attack", text)
    asked, truth = records(net, attack.access, **given)
    return attack.score(KEY, asked), truth, asked


@pytest.mark.parametrize("text", ATTACKS)
def test_there_is_one_finite_score_for_each_value_and_the_same_for_the_same_key(text):
    found, _, asked = scored(text, leaking)
    assert found.shape == (COUNT, VALUES) and np.isfinite(found).all()
    np.testing.assert_array_equal(found, scored(text, leaking)[0])
    assert (asked.victim.queries == 0) == (asked.victim.access in ("none", "features"))


@pytest.mark.parametrize("text", [*ASKING, "overlearned", "attack_model(16, steps=500)", "map_estimate('record')"])
def test_a_model_that_leaks_the_attribute_by_construction_gives_every_one_away(text):
    found, truth, _ = scored(text, leaking)
    assert (found.argmax(-1) == truth).all()


@pytest.mark.parametrize("text", ASKING)
def test_a_model_that_never_sees_the_attribute_gives_nothing_above_imputation(text):
    """Nothing in this table tells of the attribute but itself: one value in three is right."""
    found, truth, asked = scored(text, deaf, data=table(1500, 1))
    base = impute(asked).argmax(-1) == truth
    assert np.mean(found.argmax(-1) == truth) - base.mean() < 0.04 and abs(base.mean() - 1 / 3) < 0.06


def test_an_attack_on_labels_is_told_labels_alone():
    for text in ASKING:
        if build("attack", text).access == "labels":
            asked, _ = records(leaking, "labels")
            assert set(np.unique(asked.answers)) == {0.0, 1.0}


def test_imputation_reaches_the_best_guess_that_there_is():
    """On the census the regression can be the exact posterior, whose rate is known; with few records it is not."""
    data, complete = (load_dataset("census(train=4000, test=3000)", split) for split in ("train", "test"))
    asked, truth = records(deaf, "none", complete, data)
    found = np.exp(impute(asked))
    rate = np.mean(found.argmax(-1) == truth)
    assert rate == pytest.approx(census.best_guess(), abs=0.03) and rate > np.bincount(truth).max() / 4000 + 0.08
    exact = census.posterior(data.x, data.y)
    assert np.abs(found - exact).mean() < 0.08
    few, _ = records(deaf, "none", complete.take(30), data)
    assert np.mean(impute(few).argmax(-1) == truth) < rate - 0.05


def test_the_label_may_be_left_out_of_what_imputation_sees():
    data = table()
    assert described(data).shape == (COUNT, 2 + 9 + 18) and described(data, False).shape == (COUNT, 9)
    image = dataclasses.replace(data, attribute=dataclasses.replace(data.attribute, place=None))
    np.testing.assert_array_equal(described(image), np.eye(2)[data.y])


def fixed(answers):
    """Records of one label, 1, whose answers [N, V, 2] are given."""
    asked, _ = records(deaf, data=table(len(answers), 2))
    asked = dataclasses.replace(asked, data=dataclasses.replace(asked.data, y=np.ones(len(answers), int)))
    asked.__dict__["answers"] = np.asarray(answers, float)
    return asked


def test_csmia_goes_by_its_three_cases():
    right, surer, wrong, unsure = (0.0, 1.0), (0.0, 3.0), (3.0, 0.0), (1.0, 0.0)
    asked = fixed([[wrong, right, wrong], [right, wrong, surer], [wrong, unsure, wrong]])
    assert build("attack", "csmia").score(KEY, asked).argmax(-1).tolist() == [1, 2, 1]


def test_ties_go_to_the_commoner_value():
    asked = fixed([[(0.0, 1.0)] * 3] * 4)
    for text in ("csmia", "map_estimate", "confusion_map"):
        assert set(build("attack", text).score(KEY, asked).argmax(-1)) == {int(asked.prior.argmax())}


def test_a_map_estimate_is_the_product_of_prior_and_confidence():
    asked = fixed([[(0.0, 2.0), (0.0, 1.0), (0.0, 0.0)]])
    sure = 1 / (1 + np.exp(-np.array([2.0, 1.0, 0.0])))
    found = np.exp(build("attack", "map_estimate").score(KEY, asked))
    np.testing.assert_allclose(found[0], asked.prior * sure)
    density = build("attack", "loss_density").score(KEY, asked)[0]
    np.testing.assert_allclose(density, np.log(asked.prior) + np.log(sure) / 0.05)


def test_a_confusion_matrix_is_counted_on_complete_records():
    asked, _ = records(deaf, "labels")
    right = np.bincount(asked.complete.y)  # the model is always right, and half a record is added to every count
    shares = (right + 0.5) / (right + 1.0)
    found = build("attack", "confusion_map").score(KEY, asked)
    np.testing.assert_allclose(found, np.log(asked.prior) + np.log(shares[asked.data.y])[:, None])


def test_an_attack_is_not_handed_the_answer():
    asked, _ = records(deaf)
    assert set(asked.data.attribute.values) == {-1} and not asked.data.x[:, :, 9:].any()


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("attack", "attack_model(hidden=-1)", "attack_model: hidden = -1 must be at least 0"),
        ("attack", "attack_model(steps=0)", "attack_model: steps = 0 must be greater than 0"),
        ("attack", "map_estimate('even')", "map_estimate: prior = 'even'; there are: marginal, record"),
        ("budget", "complete(1)", "complete: n = 1 must be at least 2"),
    ],
)
def test_wrong_arguments_are_named(kind, text, message):
    with pytest.raises(UserError, match=message):
        build(kind, text)
