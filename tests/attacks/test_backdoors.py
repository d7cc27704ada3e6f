"""Single backdoors: their formulas, and the traps of published code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.backdoor import bpp, wanet
from robustbench_jax.models import build_model
from robustbench_jax.poisons import stamped
from robustbench_jax.registry import build
from robustbench_jax.training import fit
from robustbench_jax.types import UserError
from tests import oracles

KEY = jax.random.key(0)
DATA = oracles.noise_images(60, (12, 12, 1), 4)


def trigger(text):
    return build("attack", text).poison(KEY, DATA, 0).trigger


def test_a_pattern_may_be_black():
    """A mask read off the pattern, as some do, leaves black pixels out."""
    x = stamped(KEY, trigger("badnets(pattern='black', size=2, corner='top_left', margin=1)"), DATA.x)
    assert np.all(x[:, 1:3, 1:3] == 0) and np.array_equal(x[:, 3:], DATA.x[:, 3:])


def test_an_opaque_patch_put_on_twice_is_the_patch():
    patch = trigger("badnets")
    once = stamped(KEY, patch, DATA.x)
    np.testing.assert_array_equal(stamped(KEY, patch, once), once)


def test_the_sinusoid_is_that_of_the_paper():
    grey = np.full((1, 12, 12, 1), 128, np.uint8)
    x = stamped(KEY, trigger("sig(delta=40/255, frequency=3)"), grey)[0, :, :, 0]
    expected = np.round(128 + 40 * np.sin(2 * np.pi * np.arange(12) * 3 / 12))
    np.testing.assert_array_equal(x, np.tile(expected, (12, 1)))


def test_training_and_test_strengths_are_apart():
    attack = build("attack", "blended(alpha=0.5, train_alpha=0.1)")
    made = attack.poison(KEY, DATA, 8)
    rows = np.flatnonzero(made.poisoned)
    moved = np.abs(made.dataset.x[rows].astype(float) - DATA.x[rows])
    strong = np.abs(stamped(KEY, made.trigger, DATA.x[rows]).astype(float) - DATA.x[rows])
    assert strong.sum() == pytest.approx(5 * moved.sum(), rel=0.02)


def test_a_low_frequency_pattern_has_no_high_ones_and_the_stated_size():
    from scipy.fft import dctn

    pattern = np.asarray(trigger("low_frequency(eps=0.1, frequencies=3)").pattern)[..., 0]
    spectrum = np.abs(dctn(pattern, norm="ortho"))
    assert np.abs(pattern).max() == pytest.approx(0.1) and spectrum[0, 0] < 1e-6
    assert spectrum[3:].max() < 1e-6 and spectrum[:, 3:].max() < 1e-6


def test_dithering_is_floyd_and_steinbergs():
    x = np.random.default_rng(0).uniform(size=(5, 7, 1))
    left = x[..., 0].copy()
    for i in range(5):
        for j in range(7):
            old, new = left[i, j], np.clip(np.round(left[i, j] * 3) / 3, 0, 1)
            left[i, j] = new
            for down, right, weight in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if i + down < 5 and 0 <= j + right < 7:
                    left[i + down, j + right] += (old - new) * weight / 16
    np.testing.assert_allclose(bpp.dithered(jnp.asarray(x, jnp.float32), 4.0)[..., 0], left, atol=1e-5)


def test_bicubic_weights_with_aligned_corners_are_pytorchs():
    """F.interpolate(mode="bicubic", align_corners=True) of [0, 1, 4, 9] to 7 places, PyTorch 2.15."""
    values = wanet.bicubic(4, 7) @ np.array([0.0, 1.0, 4.0, 9.0])
    np.testing.assert_allclose(values, [0.0, 0.21875, 1.0, 2.125, 4.0, 6.78125, 9.0], atol=1e-6)


def test_the_field_of_wanet_is_divided_by_its_mean_size():
    coarse = np.random.default_rng(0).uniform(-1, 1, (4, 4, 2))
    np.testing.assert_allclose(wanet.offsets(coarse, 9, 9), wanet.offsets(3 * coarse, 9, 9))
    still = wanet.places(np.zeros((6, 5, 2)))
    np.testing.assert_allclose(still, np.stack(np.meshgrid(np.arange(6), np.arange(5), indexing="ij"), -1), atol=1e-6)


def test_noise_mode_changes_images_in_training_and_keeps_the_labels_of_odd_ones():
    attack = build("attack", "wanet_noise(target=1)")
    made = attack.poison(KEY, DATA, 6)
    assert made.digest == DATA.digest and made.poisoned.sum() == 6
    mode = attack.controlled(build("training", "standard"), made)
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(2000, 12, 12, 1)), jnp.float32)
    bad, labels = mode.tampered(KEY, x, jnp.full(2000, 3))
    moved = np.asarray(jnp.any(bad != x, axis=(1, 2, 3)))
    assert np.mean(labels == 1) == pytest.approx(0.1, abs=0.03) and np.mean(moved) == pytest.approx(0.3, abs=0.04)


def test_a_model_can_be_trained_by_an_attacker():
    attack = build("attack", "wanet_noise(target=1)")
    made = attack.poison(KEY, DATA, 6)
    model = build_model("mlp([8])", (12, 12, 1), 4, KEY)
    recipe = build("recipe", "sgd(epochs=1, batch_size=20)")
    mode = attack.controlled(build("training", "standard"), made)
    fitted = fit(KEY, model, DATA, recipe, defence=mode)
    assert all(np.all(np.isfinite(value)) for value in fitted.params.values())
    with pytest.raises(UserError, match="does not know 'adversarial_training'"):
        attack.controlled(build("training", "adversarial_training(pgd(steps=2), linf(0.1))"), made)


@pytest.mark.parametrize(
    "text, message",
    [
        ("badnets(relabels='all')", "relabels = 'all'; there are: all_to_one, all_to_all"),
        ("blended(alpha=2)", "blended: alpha = 2.0 must be from 0 to 1"),
        ("bpp(bits=0)", "bpp: bits = 0 must be from 1 to 7"),
        ("wanet(cells=1)", "wanet: cells = 1 must be at least 2"),
        ("sig(delta=0)", "sig: delta = 0.0 must be greater than 0"),
        ("low_frequency(frequencies=1)", "frequencies = 1 must be at least 2"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        build("attack", text)
