"""Training: resumption bit for bit, stacks of models, averages of weights, augmentation, and what goes wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import build
from robustbench_jax.training import _augment, fit, fit_many
from robustbench_jax.types import Dataset, UserError

SHAPE = (4, 4, 1)
STANDARD = build("training", "standard")


def images(count: int = 48) -> Dataset:
    """Two classes: bright above, bright below."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    x = rng.integers(0, 120, (count, *SHAPE), np.uint8)
    x[y == 0, :2] += 100
    x[y == 1, 2:] += 100
    return Dataset(x, y.astype(np.int32), ("above", "below"), "halves")


def fresh(seed: int = 0):
    return build_model("mlp([6])", SHAPE, 2, jax.random.key(seed))


def trained(recipe: str, data=None, seed: int = 1, **options):
    return fit(jax.random.key(seed), fresh(), data or images(), build("recipe", recipe), defence=STANDARD, **options)


def same(a, b) -> bool:
    return all(np.array_equal(a.params[name], b.params[name]) for name in a.params)


class Killed(Exception):
    pass


def test_it_learns_what_can_be_learnt():
    data = images()
    model = trained("sgd(epochs=30, batch_size=8)")
    assert np.mean(classify(model, data.x) == data.y) == 1
    assert same(model, trained("sgd(epochs=30, batch_size=8)"))
    assert not same(model, trained("sgd(epochs=30, batch_size=8)", seed=2))


@pytest.mark.parametrize("after", [1, 20, 40])
def test_a_run_that_was_killed_goes_on_to_the_same_weights_bit_for_bit(tmp_path, after):
    recipe = "sgd(epochs=12, batch_size=8, augmentation='crop_flip', ema=0.9)"

    def stop(progress):
        if progress.step >= after:
            raise Killed

    with pytest.raises(Killed):
        trained(recipe, directory=tmp_path, report=stop)
    seen = []
    resumed = trained(recipe, directory=tmp_path, report=lambda progress: seen.append(progress.step))
    assert same(resumed, trained(recipe)) and (not seen or min(seen) >= after // 6 * 6)


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path):
    recipe = "sgd(epochs=5, batch_size=8)"
    whole = trained(recipe, directory=tmp_path)
    newest = max((path for path in tmp_path.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=f"checkpoint {newest.name} .* is damaged and passed over"):
        again = trained(recipe, directory=tmp_path)
    assert same(again, whole)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_stack_of_models_is_trained_as_each_alone(at_once):
    data, recipe = images(), build("recipe", "sgd(epochs=3, batch_size=8)")
    keys, subsets = jax.random.split(jax.random.key(5), 3), np.stack([np.arange(32), np.arange(16, 48), np.arange(32)])
    models = [fresh(seed) for seed in range(3)]
    stack = models[0].replace(params=jax.tree.map(lambda *p: jnp.stack(p), *(m.params for m in models)))
    many = fit_many(keys, stack, data, recipe, defence=STANDARD, subsets=subsets, at_once=at_once)
    for i, model in enumerate(models):
        part = Dataset(data.x[subsets[i]], data.y[subsets[i]], data.classes, data.name)
        alone = fit(jax.random.split(jax.random.key(5), 3)[i], model, part, recipe, defence=STANDARD)
        for name, value in alone.params.items():
            np.testing.assert_allclose(many.params[name][i], value, rtol=1e-4, atol=1e-6)


def test_the_average_of_the_weights_is_the_exponential_one():
    one_step = "epochs=1, batch_size=48, learning_rate=0.05, schedule='constant'"
    start, last = fresh(), trained(f"sgd({one_step})")
    average = trained(f"sgd({one_step}, ema=0.9)")
    for name, value in average.params.items():
        np.testing.assert_allclose(value, 0.9 * start.params[name] + 0.1 * last.params[name], rtol=1e-5, atol=1e-7)


def test_flips_mirror_some_images_and_crops_shift_them_by_an_eighth_of_the_side():
    x = np.random.default_rng(0).integers(1, 256, (32, 8, 8, 3), np.uint8)
    unit = x.astype(np.float32) / 255
    key = stream(jax.random.key(0), "augment")
    flipped = np.asarray(_augment(key, x, "flip"))
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, unit, strict=True)])
    kept = np.array([np.array_equal(a, b) for a, b in zip(flipped, unit, strict=True)])
    assert np.all(mirrored ^ kept) and 4 < mirrored.sum() < 28
    shifts = set()
    for cropped, image in zip(np.asarray(_augment(key, x, "crop")), unit, strict=True):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        places = [(i, j) for i in range(3) for j in range(3) if np.array_equal(cropped, padded[i : i + 8, j : j + 8])]
        assert len(places) == 1
        shifts.add(places[0])
    assert len(shifts) > 5
    np.testing.assert_array_equal(_augment(key, x, "none"), unit)


def test_a_loss_that_is_no_number_ends_the_training():
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+: lower the learning rate"):
        trained("sgd(epochs=20, batch_size=8, learning_rate=1e30, schedule='constant')")


def test_a_batch_larger_than_the_data_is_named():
    with pytest.raises(UserError, match="batch_size = 100: there are 48 training examples"):
        trained("sgd(batch_size=100)")


@pytest.mark.parametrize(
    "text, message",
    [
        ("sgd(schedule='cosin')", "did you mean 'cosine'"),
        ("sgd(augmentation='crops')", "did you mean 'crop'"),
        ("sgd(ema=1.0)", "ema = 1.0 must be at least 0 and below 1"),
        ("adamw(epochs=0)", "epochs = 0"),
    ],
)
def test_wrong_recipes_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("recipe", text)
