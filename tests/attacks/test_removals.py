"""What thieves do to a marked model: each removal changes what it says, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.ownership.compressing import pruned, quantised
from robustbench_jax.defences.training.marks.uchida import read
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.ownership import Service, Thief
from robustbench_jax.registry import build, discover
from robustbench_jax.types import UserError
from tests import oracles

KEY, SHAPE, CLASSES = jax.random.key(0), (6, 6, 1), 4
RECIPE = "sgd(epochs=1, batch_size=16, learning_rate=0.01)"
NAMES = sorted(name for name, found in discover("attack").items() if found.facts.get("threat") == "ownership")
TRAINING = ("distil", "extract", "fine_tune_all", "fine_tune_last", "overwrite", "retrain_all", "retrain_last")


def fresh(key):
    return build_model("mlp([8])", SHAPE, CLASSES, key)


def thief(mark="trigger_set(images=8)"):
    stolen, mark = fresh(jax.random.key(1)), build("training", mark)
    return Thief(
        stolen, oracles.noise_images(48, SHAPE, CLASSES), Service(stolen, mark), fresh, lambda: fresh(KEY), mark
    )


def removed(name, owner=None, key=KEY):
    text = f"{name}(recipe={RECIPE})" if name in TRAINING else name
    return build("attack", text).remove(key, owner or thief())


def moved(model, other):
    return {name for name, value in model.params.items() if not np.array_equal(value, other.params[name])}


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_a_model_of_the_same_architecture_that_its_key_decides_and_leaves_the_stolen_one_alone(name):
    owner = thief()
    before = {key: np.array(value) for key, value in owner.stolen.params.items()}
    first, again = removed(name, owner), removed(name, owner)
    assert first.net == owner.stolen.net and not moved(first, again)
    assert all(np.array_equal(value, owner.stolen.params[key]) for key, value in before.items())
    assert all(np.isfinite(value).all() for value in first.params.values())


@pytest.mark.parametrize("name", ["no_removal", "forge"])
def test_to_remove_nothing_changes_nothing(name):
    owner = thief()
    assert not moved(removed(name, owner), owner.stolen)


def test_an_innocent_model_has_nothing_of_the_stolen_one():
    owner = thief()
    assert not moved(removed("independent", owner), fresh(KEY))
    assert not owner.service.asked


@pytest.mark.parametrize("name", ["fine_tune_last", "retrain_last"])
def test_where_the_last_layer_alone_is_trained_the_others_stay_to_the_bit(name):
    owner = thief()
    assert moved(removed(name, owner), owner.stolen) == {"head/kernel", "head/bias"}


def test_to_fine_tune_goes_on_from_the_stolen_weights_and_to_retrain_begins_the_head_anew():
    owner = thief()
    stays = [np.corrcoef(removed(name, owner).params["head/kernel"].ravel(), owner.stolen.params["head/kernel"].ravel())
             for name in ("fine_tune_all", "retrain_all")]  # fmt: skip
    assert stays[0][0, 1] > 0.95 and abs(stays[1][0, 1]) < 0.6


@pytest.mark.parametrize("share, zeros", [(0.0, 0), (0.25, 3), (0.5, 6)])
def test_pruning_takes_the_smallest_weights(share, zeros):
    kernel = jnp.asarray(np.random.default_rng(0).permutation(np.arange(1.0, 13) * np.where(np.arange(12) % 2, 1, -1)))
    left = pruned(kernel.reshape(3, 4), share)
    assert np.sum(left == 0) == zeros
    np.testing.assert_array_equal(left.ravel(), np.where(np.abs(kernel) > zeros, kernel, 0))


@pytest.mark.parametrize("bits, levels", [(2, [-1, 0, 1]), (3, [-3, -2, -1, 0, 1, 2, 3])])
def test_quantising_leaves_the_nearest_of_even_levels(bits, levels):
    kernel = jnp.linspace(-1.0, 1.0, 41)
    found = np.asarray(quantised(kernel, bits)) * max(levels)
    np.testing.assert_allclose(np.unique(np.round(found, 4)), levels)
    assert np.abs(found - max(levels) * np.asarray(kernel)).max() <= 0.5 + 1e-5
    np.testing.assert_array_equal(quantised(jnp.zeros(4), bits), np.zeros(4))
    assert np.abs(quantised(kernel, 16) - kernel).max() < 1e-4


def test_an_extraction_asks_about_each_image_once_and_believes_what_it_is_told():
    owner = thief("dawn(rate=0.5)")
    removed("extract", owner)
    ((asked, answers),) = owner.service.asked
    np.testing.assert_array_equal(asked, owner.images.x)
    plain = np.asarray(jax.vmap(owner.stolen)(owner.images.x / np.float32(255))).argmax(-1)
    assert 12 <= np.sum(answers.argmax(-1) != plain) <= 36
    assert not thief().service.asked


def test_the_thief_does_not_know_the_owners_secret():
    """What he embeds is another message: his own bits get nearer to being read, with a strong regulariser."""
    owner = thief("uchida(bits=16, strength=10.0)")
    model = build("attack", "overwrite(recipe=adamw(epochs=30, batch_size=16, learning_rate=0.01))").remove(KEY, owner)
    mark = owner.mark
    own = mark.message(owner.stolen.params)
    secret = int(jax.random.bits(stream(KEY, "secret")) >> 1)
    his = mark.replace(secret=secret).message(owner.stolen.params)
    assert secret != mark.secret and not np.array_equal(own.matrix, his.matrix)
    assert np.mean(read(his, model.params) == his.bits) > 0.9 > np.mean(read(his, owner.stolen.params) == his.bits)


@pytest.mark.parametrize(
    "text, message",
    [
        ("prune(1.0)", "prune: share = 1.0 must be at least 0 and below 1"),
        ("quantise(1)", "quantise: bits = 1 must be from 2 to 16"),
        ("distil(0)", "distil: temperature = 0.0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("attack", text)
