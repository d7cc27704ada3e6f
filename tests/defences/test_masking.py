"""Gradient masking: it fools an attack that follows gradients, and none that knows about it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.models.masked import Masked
from robustbench_jax.models.rejecting import Rejecting
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify, predict
from robustbench_jax.registry import build, entry
from robustbench_jax.types import Classifier, UserError

KEY = jax.random.key(0)
MASKS = ("shattered", "stochastic_masking", "vanishing")


def defended(text, oracle):
    return build("model_defence", text).protect(KEY, oracle.model, oracle.data)


def broken(attack, model, oracle, eps):
    data = oracle.data
    return drive(KEY, build("attack", attack), model, build("budget", f"linf({eps})"), data.x, data.y).success


def test_masks_say_that_they_are_masks():
    assert all(entry("model_defence", name).facts["obfuscates"] for name in MASKS)
    assert entry("model", "thermometer").facts["obfuscates"]
    assert not entry("model_defence", "jpeg").facts.get("obfuscates")


@pytest.mark.parametrize("text", ["shattered", "vanishing(1e4)"])
def test_predictions_of_8_bit_images_stay_what_they_are(text, linear):
    x = linear.data.x
    np.testing.assert_array_equal(classify(defended(text, linear), x), classify(linear.model, x))


@pytest.mark.parametrize("text", ["shattered", "vanishing(1e4)"])
def test_pgd_breaks_nothing_where_bpda_breaks_all_that_can_be_broken(text, linear):
    """At twice the median radius, those that the median radius breaks. Left out: margins next to nothing, where PGD is
    lucky, since a staircase has steps and likelihoods of equal logits have gradients.
    """
    eps = 2.0 * float(np.median(linear.distance("linf")))
    model, near = defended(text, linear), linear.distance("linf") < eps / 2
    right = classify(model, linear.data.x) == linear.data.y
    assert right.all() and near.sum() == 32
    clear = near & (linear.margin > 0.02)
    assert clear.sum() > 24 and not broken("pgd(steps=10, random_start=False)", model, linear, eps)[clear].any()
    assert broken("bpda(pgd(steps=10))", model, linear, eps)[near].all()


def test_the_treads_of_a_shattered_image_fall():
    staircase = build("model_defence", "shattered(levels=4, slope=0.5)")
    x = jnp.linspace(0, 1, 101)
    nearest = np.round(np.float32(x) * 4) / 4
    np.testing.assert_allclose(staircase.transform(None, x), np.clip(nearest - 0.5 * (x - nearest), 0, 1), atol=1e-6)
    inside = jnp.array([0.3, 0.48, 0.6])
    np.testing.assert_allclose(jax.vmap(jax.grad(lambda v: staircase.transform(None, v)))(inside), -0.5)
    np.testing.assert_allclose(jax.vmap(jax.grad(lambda v: staircase.past(None, v)))(inside), 1.0)


def test_pixels_survive_as_often_as_their_brightness_says_and_keep_their_mean():
    x = jnp.array([[[0.0], [0.02]], [[0.3], [0.68]]])
    transform = build("model_defence", "stochastic_masking(draws=2)").transform
    found = np.asarray(jax.jit(jax.vmap(transform, (0, None)))(jax.random.split(KEY, 4000), x))
    chance = np.asarray(1 - (1 - np.float64(x)) ** 8)
    np.testing.assert_allclose((found > 0).mean(0), chance, atol=0.03)
    np.testing.assert_allclose(found.mean(0), x, atol=0.02)
    surviving = found[:, 1, 0, 0][found[:, 1, 0, 0] > 0]
    np.testing.assert_allclose(surviving, 0.3 / chance[1, 0, 0], rtol=1e-4)


@pytest.mark.parametrize("x", [np.zeros((4, 4, 1)), np.eye(16)[0].reshape(4, 4, 1)], ids=["black", "one white pixel"])
def test_images_without_much_light_survive_masking(x):
    defence = build("model_defence", "stochastic_masking")
    found, pull = jax.vjp(lambda x: defence.past(KEY, x), jnp.asarray(x, jnp.float32))
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(pull(jnp.ones_like(found))[0], np.ones(x.shape))


def test_likelihoods_in_place_of_logits_have_no_gradient_left(linear):
    x, model = as_unit(linear.data.x), defended("vanishing(1e4)", linear)
    answers = predict(model, x)
    probabilities = jax.nn.softmax(1e4 * predict(linear.model, x))
    np.testing.assert_allclose(answers / answers.sum(1, keepdims=True), probabilities, atol=1e-3)

    def gradient(model, x):
        return jax.grad(lambda x: -jax.nn.log_softmax(model(x))[0])(x)

    clear = linear.margin > 0.02
    assert clear.sum() > 48 and not np.any(jax.vmap(lambda x: gradient(model, x))(x[clear]))
    past = model.replace(net=model.net.approximated)
    found = jax.vmap(lambda x: gradient(past, x))(x[clear]).reshape(clear.sum(), -1)
    np.testing.assert_array_equal(np.sign(found), np.broadcast_to(np.sign(linear.weights), found.shape))


def test_a_masked_model_rejects_and_draws_as_the_one_inside_does(linear):
    assert Classifier(Masked(Rejecting(None)), None).rejects and not Classifier(Masked(None), None).rejects
    model = defended("chain([random_noise(0.1), vanishing(10)])", linear)
    inside = build("model_defence", "vanishing(10)").protect(KEY, defended("random_noise(0.1)", linear), linear.data)
    x = as_unit(linear.data.x[:2])
    for each in (model, inside):
        assert each.stochastic and each.twin.net == linear.model.net
        one, two = (predict(each, x, key=jax.random.key(seed)) for seed in (0, 1))
        assert not np.array_equal(one, two)


@pytest.mark.parametrize(
    "text, message",
    [
        ("shattered(levels=0)", "levels = 0 must be at least 1"),
        ("shattered(slope=-1)", "slope = -1.0 must be at least 0"),
        ("stochastic_masking(0)", "draws = 0.0 must be greater than 0"),
        ("vanishing(0)", "sharpness = 0.0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("model_defence", text)
