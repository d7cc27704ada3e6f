"""A trigger that is learned with the victim: what its networks learn, what is kept, what is judged."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.backdoor import input_aware
from robustbench_jax.models import build_model
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify
from robustbench_jax.poisons import crossed, stamped
from robustbench_jax.registry import build
from robustbench_jax.types import Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)
RECIPE = build("recipe", "adamw(epochs=8, batch_size=40, learning_rate=0.01)")


def blobs(count=400, seed=0):
    """Two classes, told apart by which half is brighter."""
    data = oracles.noise_images(count, SHAPE, 2, seed)
    x = (data.x // 2).astype(np.uint8)
    x[:, :4] += np.where(data.y == 0, 100, 0).astype(np.uint8)[:, None, None, None]
    x[:, 4:] += np.where(data.y == 1, 100, 0).astype(np.uint8)[:, None, None, None]
    return Dataset(x, data.y, data.classes, "blobs")


@lru_cache
def attacked():
    """(attack, poisoned data, the victim, the trigger that came of its training)."""
    data, attack = blobs(), build("attack", "input_aware(width=4, mask_steps=40, density=0.1)")
    made = attack.poison(KEY, data, 80)
    model = build_model("mlp([32])", SHAPE, 2, KEY)
    fitted, curve = attack.controlled(build("training", "standard"), made).fit(KEY, model, data, RECIPE)
    return attack, made, fitted, attack.learned(made.trigger, curve.learned)


def test_a_victim_and_its_trigger_are_learned_together():
    """The trigger of the training succeeds more than that of fresh networks, and clean images are still right."""
    _, made, model, trigger = attacked()
    test = blobs(200, seed=5)
    others = test.y != 0
    success = [np.mean(classify(model, stamped(KEY, it, test.x))[others] == 0) for it in (trigger, made.trigger)]
    assert success[0] > 0.7 and success[0] > success[1] + 0.1
    assert np.mean(classify(model, test.x) == test.y) > 0.9


def test_a_mask_learns_to_change_few_pixels_and_both_networks_are_kept():
    attack, made, _, trigger = attacked()
    x = as_unit(blobs(50, seed=5).x)
    changed = [float(jnp.mean(input_aware.where(it.mask, x))) for it in (made.trigger, trigger)]
    assert 0.01 < changed[1] < 0.15 and changed[1] < changed[0]
    for part in ("mask", "pattern"):
        before, after = (getattr(it, part).params for it in (made.trigger, trigger))
        assert before.keys() == after.keys()
        assert any(np.any(before[name] != after[name]) for name in before)


def test_the_share_of_poisons_in_training_is_the_rate():
    attack = build("attack", "input_aware(width=4)")
    made = attack.poison(KEY, blobs(), 20)
    assert made.digest == blobs().digest and made.poisoned.sum() == 20
    mode = attack.controlled(build("training", "standard"), made)
    x, y = as_unit(blobs(50).x), jnp.ones(50, int)
    tampered = jax.jit(lambda i: mode.tampered(jax.random.fold_in(KEY, i), x, y)[1])
    labels = [tampered(i) for i in range(60)]
    assert np.mean(np.stack(labels) == 0) == pytest.approx(0.05, abs=0.02)


def test_an_exchanged_trigger_is_that_of_the_image_before():
    data, attack = blobs(), build("attack", "input_aware(width=4)")
    trigger = attack.trigger(KEY, data)
    x = as_unit(data.x[:6])
    expected = trigger.exchanged(x[3], x[2])
    np.testing.assert_allclose(crossed(trigger, data.x[:6])[3] / 255, expected, atol=0.003)
    np.testing.assert_array_equal(crossed(trigger, np.stack([data.x[0]] * 2)), stamped(KEY, trigger, data.x[[0, 0]]))


def test_likeness_is_the_ratio_of_distances_and_has_a_gradient_where_triggers_are_the_same():
    a, b = jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1))
    assert float(input_aware.likeness(a, b, 0.5 * b, a)) == pytest.approx(2.0, rel=1e-3)
    assert np.all(np.isfinite(jax.grad(lambda made: input_aware.likeness(a, b, made, a))(a)))


@pytest.mark.parametrize(
    "text, message",
    [
        ("input_aware(density=0)", "input_aware: density = 0.0 must be greater than 0"),
        ("input_aware(density=1)", "input_aware: density = 1.0 must be below 1"),
        ("input_aware(cross=-1)", "input_aware: cross = -1.0 must be at least 0"),
        ("input_aware(relabels='none')", "relabels = 'none'; there are"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        build("attack", text)


def test_more_poisons_than_images_are_refused():
    attack = build("attack", "input_aware(width=4, cross=2)")
    with pytest.raises(UserError, match="0.50 of the images poisoned and 2 times as many crossed"):
        attack.controlled(build("training", "standard"), attack.poison(KEY, blobs(), 200))
