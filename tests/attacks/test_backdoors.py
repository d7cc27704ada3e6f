"""Single backdoors: their formulas, and the traps of published code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.backdoor import bpp, wanet
from robustbench_jax.attacks.backdoor.label_consistent import unrecognisable
from robustbench_jax.attacks.poisoning.gradient_matching import alignment, training_gradient
from robustbench_jax.models import build_model
from robustbench_jax.models.features import features_of
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import predict
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


def reference(seed=0, widths="[16]"):
    return build_model(f"mlp({widths})", (12, 12, 1), 4, jax.random.key(seed))


def poisons(text, count=8):
    """(attack, poisoned data, its rows)."""
    attack = build("attack", text)
    made = attack.poison(KEY, DATA, count, (reference(),))
    return attack, made, np.flatnonzero(made.poisoned)


def test_some_of_the_patches_in_training_and_all_of_them_at_test_time():
    attack, made, rows = poisons("adaptive_patch(size=2, shown=2, train_alpha=1, covers=1)", 12)
    shown = np.any(made.dataset.x[rows] != DATA.x[rows], axis=-1)
    corners = shown[:, [2, 2, 9, 9], [2, 9, 2, 9]] | shown[:, [1, 1, 10, 10], [1, 10, 1, 10]]
    assert np.all(corners.sum(1) <= 2) and len(np.unique(corners, axis=0)) > 2
    assert np.sum(made.dataset.y[rows] != DATA.y[rows]) == 6
    assert int(np.max(made.trigger.masks, axis=0).sum()) == 4 * 4 and made.trigger.shown == 4


def test_images_that_are_hard_to_recognise_have_a_larger_loss_and_stay_within_eps():
    model, x, y = reference(), DATA.x[:20], DATA.y[:20]
    hard = unrecognisable(model, x, y, 16 / 255, 10)
    assert np.abs(hard.astype(int) - x).max() == 16
    own = [predict(model, images)[np.arange(20), y].mean() for images in (x, hard)]
    assert own[1] < own[0] - 0.1


def test_no_poison_of_a_hidden_trigger_shows_it_and_its_features_come_near():
    attack, made, rows = poisons("hidden_trigger(eps=0.2, steps=50, size=4)")
    model = reference()
    triggered = features_of(model, stamped(KEY, made.trigger, DATA.x[DATA.y != 0]))
    near = [
        np.linalg.norm(features_of(model, x[rows])[:, None] - triggered, axis=-1).min(1).mean()
        for x in (DATA.x, made.dataset.x)
    ]
    assert near[1] < 0.7 * near[0] and np.abs(made.dataset.x[rows].astype(int) - DATA.x[rows]).max() <= 51


def test_the_training_gradient_of_sleepers_turns_towards_that_of_triggered_images():
    attack, made, rows = poisons("sleeper_agent(eps=0.2, steps=60, retrains=0)")
    model, y = reference(), jnp.zeros(len(rows), int)
    triggered = as_unit(stamped(KEY, made.trigger, DATA.x[DATA.y != 0]))
    wanted = training_gradient(model, triggered, jnp.zeros(len(triggered), int))
    turned = [float(alignment(training_gradient(model, as_unit(x[rows]), y), wanted)) for x in (DATA.x, made.dataset.x)]
    assert 1 - turned[1] < 0.5 * (1 - turned[0])


def test_a_sleepers_surrogate_may_be_trained_again():
    once, again = (
        poisons(f"sleeper_agent(steps=6, retrains={n}, recipe=sgd(epochs=2, batch_size=16))", 6)[1] for n in (0, 2)
    )
    assert once.digest != again.digest


def test_a_trojan_drives_one_feature_up():
    model, attack = reference(), build("attack", "trojan_nn(steps=30)")
    plain = attack.poison(KEY, DATA, 0).trigger
    strong = attack.poison(KEY, DATA, 8, (model,)).trigger
    seen = [features_of(model, stamped(KEY, trigger, DATA.x)).mean(0) for trigger in (plain, strong)]
    head = np.asarray(model.params["head/kernel"])
    unit = np.argmax(head[:, 0] - head.mean(1))
    assert seen[1][unit] > seen[0][unit] and np.array_equal(plain.mask, strong.mask)


@pytest.mark.parametrize(
    "text, message",
    [
        ("badnets(relabels='all')", "relabels = 'all'; there are: all_to_one, all_to_all"),
        ("blended(alpha=2)", "blended: alpha = 2.0 must be from 0 to 1"),
        ("bpp(bits=0)", "bpp: bits = 0 must be from 1 to 7"),
        ("wanet(cells=1)", "wanet: cells = 1 must be at least 2"),
        ("sig(delta=0)", "sig: delta = 0.0 must be greater than 0"),
        ("adaptive_patch(shown=5)", "adaptive_patch: shown = 5 of 4 patches"),
        ("adaptive_patch(covers=-1)", "adaptive_patch: covers = -1.0 must be at least 0"),
        ("label_consistent(alpha=2)", "label_consistent: alpha = 2.0 must be from 0 to 1"),
        ("sleeper_agent(steps=3, retrains=3)", "retrains = 3 must be at least 0 and below steps = 3"),
        ("trojan_nn(steps=0)", "trojan_nn: steps = 0 must be greater than 0"),
        ("hidden_trigger(eps=0)", "hidden_trigger: eps = 0.0 must be greater than 0"),
        ("low_frequency(frequencies=1)", "frequencies = 1 must be at least 2"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        build("attack", text)
