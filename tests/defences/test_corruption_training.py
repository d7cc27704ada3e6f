"""Trainings against corruptions: losses against NumPy, draws that depend on ids alone, and whole trainings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from robustbench_jax.defences.training.adversarial_noise import generated
from robustbench_jax.models import build_model
from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import build
from robustbench_jax.training import fit
from robustbench_jax.types import UserError
from tests.defences.test_distillation import halves

KEY = jax.random.key(0)
MADE = ["augmix", "random_networks(share=1)", "adversarial_noise(0.3)"]


def test_augmix_is_cross_entropy_and_the_divergence_of_the_three_answers():
    logits, y = np.random.default_rng(0).normal(size=(3, 6, 4)) * 2, np.arange(6) % 4
    found = build("training", "augmix(weight=7)").objective(
        KEY, None, None, None, jnp.asarray(logits.reshape(18, 4), jnp.float32), jnp.asarray(y), 0.5
    )
    p = special.softmax(logits, -1)
    apart = np.mean([[stats.entropy(p[i, b], p[:, b].mean(0)) for i in range(3)] for b in range(6)])
    fit = -np.mean(np.log(p[0, np.arange(6), y]))
    assert float(found) == pytest.approx(fit + 7 * 3 * apart / 3, rel=1e-5)


@pytest.mark.parametrize("defence", ["augmix", "random_networks(share=1)"])
def test_draws_depend_on_ids_alone_stay_in_the_box_and_change_the_image(defence):
    made = build("training", defence)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 12, 12, 3)), jnp.float32)
    copies = len(made.perturb(KEY, None, x, None, np.arange(5))) // 5
    found = np.asarray(made.perturb(KEY, None, x, None, np.array([7, 3, 9, 1, 2]))).reshape(copies, *x.shape)
    again = np.asarray(made.perturb(KEY, None, x[1:3], None, np.array([3, 9]))).reshape(copies, 2, *x.shape[1:])
    np.testing.assert_allclose(again, found[:, 1:3], atol=1e-6)
    assert found.min() >= 0 and found.max() <= 1
    changed = found[1:] if copies > 1 else found
    assert np.abs(changed - x).mean((2, 3, 4)).min() > 1e-3
    other = np.asarray(made.perturb(jax.random.key(1), None, x, None, np.array([7, 3, 9, 1, 2])))
    assert np.abs(other.reshape(found.shape)[-1] - found[-1]).max() > 1e-3


def test_generated_noise_has_the_size_one_and_is_made_pixel_by_pixel():
    made = build("training", "adversarial_noise")
    generator, _ = made.remember(jnp.zeros((2, 6, 6, 3)))
    noise = jax.random.normal(KEY, (4, 6, 6, 3))
    found = np.asarray(generated(generator, noise))
    np.testing.assert_allclose(np.sqrt(np.mean(found**2, (1, 2, 3))), 1, rtol=1e-4)
    turned = np.asarray(generated(generator, noise[:, ::-1]))
    np.testing.assert_allclose(turned, found[:, ::-1], atol=1e-5)


def test_the_generator_ascends_what_the_model_descends():
    """The loss is the mean of the noise's first channel: the generator learns to raise it."""
    made = build("training", "adversarial_noise(0.1, share=1, rate=0.05)")
    clean = jnp.full((8, 4, 4, 2), 0.5)
    memory, found = made.remember(clean), []
    for step in range(40):
        key = jax.random.fold_in(KEY, step)
        gradient, aux, memory = made.combine(
            key,
            lambda w, batch: (w * jnp.mean(batch[1][..., 0]), jnp.mean(batch[1][..., 0])),
            1.0,
            (clean, clean, 0),
            memory,
        )
        found.append(float(aux))
        assert float(gradient) == pytest.approx(float(aux), rel=1e-5)
    assert np.mean(found[-5:]) > found[0] + 0.03


@pytest.mark.parametrize("defence", MADE)
def test_models_train_and_classify_noisy_images(defence):
    data = halves()
    recipe = build("recipe", "sgd(epochs=15, batch_size=16)")
    fitted = fit(KEY, build_model("mlp([8])", (4, 4, 1), 2, KEY), data, recipe, defence=build("training", defence))
    noisy = (data.x / 255 + np.random.default_rng(0).normal(size=data.x.shape, scale=0.1)).astype(np.float32)
    assert np.mean(classify(fitted, noisy) == data.y) > 0.9


@pytest.mark.parametrize(
    "text, message",
    [
        ("augmix(severity=0)", "severity = 0.0 must be greater than 0"),
        ("augmix(severity=11)", "severity = 11.0 must be from 0.1 to 10"),
        ("augmix(weight=-1)", "weight = -1.0 must be at least 0"),
        ("adversarial_noise(share=0)", "share = 0.0 must be above 0"),
        ("random_networks(share=2)", "share = 2.0 must be from 0 to 1"),
        ("random_network", "did you mean 'random_networks'"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text)
