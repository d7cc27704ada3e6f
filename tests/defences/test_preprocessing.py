"""Defences that change the image: what they make of it against other programs and known answers, what they let pass."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from robustbench_jax.defences.training.standard import Standard
from robustbench_jax.defences.training.wrapped import WrappedTraining
from robustbench_jax.models import build_model, files, zoo
from robustbench_jax.models.denoiser import fit_denoiser
from robustbench_jax.models.fronted import Fronted
from robustbench_jax.models.rejecting import Rejecting
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.jpeg import cubic
from robustbench_jax.ops.runtime import Runtime, placed
from robustbench_jax.registry import build
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, Dataset, UserError, record
from tests import oracles

KEY = jax.random.key(0)

# 8x8, and what fastNlMeansDenoising(image, None, 10, 3, 11) of OpenCV 5.0.0 makes of it
NOISY = [
    [60, 59, 63, 60, 147, 151, 156, 154],
    [61, 58, 61, 65, 143, 153, 148, 151],
    [67, 68, 72, 75, 159, 166, 156, 161],
    [79, 75, 71, 70, 162, 166, 159, 163],
    [79, 82, 81, 81, 166, 169, 173, 177],
    [78, 92, 91, 88, 176, 173, 182, 184],
    [99, 96, 91, 83, 179, 183, 173, 181],
    [97, 98, 89, 91, 182, 179, 193, 182],
]
OPENCV = [
    [63, 63, 63, 66, 149, 155, 156, 156],
    [64, 64, 65, 68, 151, 156, 156, 156],
    [67, 68, 68, 71, 156, 158, 158, 157],
    [74, 74, 73, 74, 163, 163, 164, 163],
    [83, 82, 82, 81, 169, 171, 173, 174],
    [88, 88, 88, 85, 174, 176, 178, 178],
    [92, 91, 90, 85, 176, 179, 178, 180],
    [93, 92, 90, 86, 177, 178, 180, 179],
]


def transformed(text, x, key=None):
    return np.asarray(jax.jit(build("model_defence", text).transform)(key, jnp.asarray(x, jnp.float32)))


def pictures(count=1, side=16, channels=3, seed=0):
    """Waves, an edge and some grain, uint8 [N, side, side, channels]."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[:side, :side]
    turns = rng.uniform(3, 8, (count, channels, 2))
    waves = np.sin(down / turns[..., :1, None]) + np.cos(right / turns[..., 1:, None]) + (right > side // 2)
    x = 128 + 35 * np.moveaxis(waves, 1, -1) + rng.normal(0, 6, (count, side, side, channels))
    return np.clip(x, 0, 255).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(1 / max(np.mean((np.float64(a) - b) ** 2), 1e-12))


@pytest.mark.parametrize("window", [2, 3, 4])
def test_medians_are_those_of_scipy(window):
    x = np.random.default_rng(0).uniform(size=(7, 5, 2)).astype(np.float32)
    expected = ndimage.median_filter(x, size=(window, window, 1), mode="reflect")
    np.testing.assert_array_equal(transformed(f"median_filter({window})", x), expected)


@pytest.mark.parametrize(
    "text", ["median_filter(3)", "non_local_means(4)", "total_variation(dropped=0)", "total_variation(dropped=0.5)"]
)
def test_an_even_image_stays_what_it_is(text):
    x = np.full((8, 8, 3), 0.3, np.float32)
    np.testing.assert_allclose(transformed(text, x, KEY), x, atol=1e-6)


def non_local(x, strength, search, patch):
    """The definition, pixel by pixel, in float64; x [H, W, C] in levels."""
    reach, half = search // 2, patch // 2
    wide, found = np.pad(np.float64(x), 2 * [(reach + half,) * 2] + [(0, 0)], mode="reflect"), np.zeros(x.shape)
    for i, j in np.ndindex(x.shape[:2]):
        own, total = wide[i + reach :, j + reach :][:patch, :patch], 0
        for a, b in np.ndindex(search, search):
            other = wide[i + a :, j + b :][:patch, :patch]
            weight = np.exp(-np.mean((own - other) ** 2) / strength**2)
            total, found[i, j] = total + weight, found[i, j] + weight * other[half, half]
        found[i, j] /= total
    return found


@pytest.mark.parametrize("strength, search, patch, channels", [(4, 11, 3, 1), (20, 5, 1, 3)])
def test_non_local_means_are_those_of_the_definition(strength, search, patch, channels):
    x = np.stack([np.array(NOISY).T if c else np.array(NOISY) for c in range(channels)], -1)
    found = 255 * transformed(f"non_local_means({strength}, {search}, {patch})", x / 255)
    np.testing.assert_allclose(found, non_local(x, strength, search, patch), atol=2e-3)


def test_non_local_means_are_those_of_opencv_but_for_its_rounding():
    found = 255 * transformed("non_local_means(10)", np.array(NOISY)[..., None] / 255)
    assert np.abs(found[..., 0] - OPENCV).max() < 0.55


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_codec_is_pillow_for_any_number_of_leading_dimensions(channels):
    x = pictures(4, 13, channels).reshape(2, 2, 13, 13, channels)
    codec = build("model_defence", "jpeg_codec(60)")
    found = jax.jit(jax.vmap(jax.vmap(lambda x: codec.transform(None, x))))(as_unit(x))
    for place in np.ndindex(2, 2):
        planes = [x[place]] if channels != 2 else [x[place][..., c : c + 1] for c in range(2)]
        read = np.concatenate([written_and_read(plane, 60) for plane in planes], -1)
        np.testing.assert_allclose(found[place], read / 255, atol=1e-6)


def written_and_read(x, quality):
    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(x.shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_our_codec_is_near_the_real_one_and_its_approximation_near_ours(channels):
    """Against both, compression itself changes a lot more."""
    x = as_unit(pictures(1, 32, channels)[0])
    ours, real = transformed("jpeg(50)", x), transformed("jpeg_codec(50)", x)
    smooth = np.asarray(jax.jit(build("model_defence", "jpeg(50)").smooth)(None, x))
    assert psnr(ours, real) > max(42, psnr(x, real) + 10)
    assert psnr(smooth, ours) > psnr(x, ours) + 3


def test_the_cubic_stays_within_an_eighth_of_the_nearest_whole_number_and_is_flat_there():
    x = jnp.array([-1.5, -0.2, 0.0, 0.4, 2.0, 2.3])
    np.testing.assert_allclose(cubic(x), np.round(x) + (x - np.round(x)) ** 3, atol=1e-7)
    np.testing.assert_allclose(jax.vmap(jax.grad(cubic))(x), 3 * (x - np.round(x)) ** 2, atol=1e-6)


def test_the_real_codec_has_no_gradient_and_bpda_one():
    x, codec = jnp.asarray(as_unit(pictures(1, 8, 1)[0])), build("model_defence", "jpeg_codec(60)")
    assert not np.any(jax.grad(lambda x: jnp.sum(codec.transform(None, x)))(x))
    assert np.any(jax.grad(lambda x: jnp.sum(codec.past(None, x)))(x))


def test_what_asks_the_host_is_on_one_device_and_all_else_on_both(tiny):
    for text, devices in {"jpeg_codec": 1, "chain([bit_depth(2), jpeg_codec])": 1, "jpeg": 2}.items():
        model = build("model_defence", text).protect(KEY, tiny[0], tiny[1])
        _, lay = placed(model, Runtime(devices=2), 8)
        assert len(lay(jnp.zeros((8, 2, 2, 1))).devices()) == devices


def test_a_white_image_shows_which_sizes_and_places_are_drawn():
    """Of 28 pixels 25 to 27, as 299 to 330 of 331 are; every place that is left."""
    resized = jax.jit(jax.vmap(build("model_defence", "resize_pad").transform, (0, None)))
    white = np.asarray(resized(jax.random.split(KEY, 400), jnp.ones((28, 28, 1))))[..., 0]
    sides, tops = white.any(2).sum(1), white.any(2).argmax(1)
    np.testing.assert_array_equal(white.sum((1, 2)), sides**2)
    assert {*map(tuple, np.stack([sides, tops], 1).tolist())} == {(s, t) for s in (25, 26, 27) for t in range(29 - s)}


def test_a_resized_image_has_the_nearest_pixels():
    x = np.random.default_rng(0).uniform(0.1, 1, (8, 12, 3)).astype(np.float32)
    for seed in range(5):
        found = transformed("resize_pad(0.5)", x, jax.random.key(seed))
        rows, columns = (np.flatnonzero(found.any((axis, 2))) for axis in (1, 0))
        high, wide = len(rows), len(columns)
        assert 4 <= high < 8 and abs(wide - 1.5 * high) <= 0.5
        expected = x[np.arange(high) * 8 // high][:, np.arange(wide) * 12 // wide]
        np.testing.assert_array_equal(found[rows][:, columns], expected)


def test_noise_has_the_size_that_was_asked_for():
    found = transformed("random_noise(0.1)", np.full((64, 64, 1), 0.5), KEY)
    assert abs(found.mean() - 0.5) < 0.006 and abs(found.std() - 0.1) < 0.004


@pytest.mark.parametrize("turned", [False, True])
def test_a_step_is_lowered_as_the_minimum_of_total_variation_says(turned):
    """Halves of n rows each: both move by weight / n towards each other (the derivative of n d^2 / 2 + weight d)."""
    x = np.repeat([0.2, 0.8], 4)[:, None, None] * np.ones((1, 6, 2))
    expected = np.repeat([0.2 + 0.1 / 4, 0.8 - 0.1 / 4], 4)[:, None, None] * np.ones((1, 6, 2))
    x, expected = (np.swapaxes(a, 0, 1) if turned else a for a in (x, expected))
    found = transformed("total_variation(0.1, dropped=0, steps=400)", x)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_default_number_of_steps_comes_near_to_the_minimum_of_total_variation():
    x = pictures(1, 16, 1)[0] / 255
    kept = np.asarray(jax.random.bernoulli(KEY, 0.5, x.shape))

    def objective(steps):
        z = transformed(f"total_variation{steps}", x, KEY)
        down, right = np.diff(z, axis=0, append=z[-1:]), np.diff(z, axis=1, append=z[:, -1:])
        return np.sum((z - x)[kept] ** 2) / 2 + 0.03 * np.sum(np.hypot(down, right))

    first, found, minimum = map(objective, ("(steps=1)", "", "(steps=500)"))
    assert 0 < found - minimum < 0.1 * (first - minimum)


def test_what_is_forgotten_has_no_influence_and_is_drawn_from_its_neighbours():
    defence = build("model_defence", "total_variation(0.01, dropped=0.3, steps=200)")
    x = jnp.asarray(np.linspace(0.2, 0.8, 10)[:, None, None] * np.ones((1, 10, 1)), jnp.float32)
    kept = np.asarray(jax.random.bernoulli(KEY, 0.7, x.shape))
    spoilt = defence.transform(KEY, jnp.where(kept, x, 1 - x))
    np.testing.assert_array_equal(spoilt, defence.transform(KEY, jnp.where(kept, x, 0.0)))
    assert np.abs(spoilt - x)[~kept].max() < 0.1 and (~kept).sum() > 20
    assert build("model_defence", "total_variation").stochastic
    assert not build("model_defence", "total_variation(dropped=0)").stochastic


def smooth_data(count=64, side=8):
    return Dataset(pictures(count, side, 1), np.zeros(count, np.int32), ("a", "b"), "waves")


def test_a_fitted_denoiser_removes_most_of_the_noise_and_depends_on_the_key_alone():
    data, how = smooth_data(), {"sigma": 0.2, "steps": 60, "batch": 16, "width": 8}
    denoiser, again, other = (fit_denoiser(jax.random.key(seed), data, **how) for seed in (0, 0, 1))
    x = as_unit(smooth_data(32).x)
    noisy = x + 0.2 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    restored = jax.vmap(denoiser)(noisy)
    assert restored.shape == x.shape
    assert np.mean((restored - x) ** 2) < 0.5 * np.mean((noisy - x) ** 2)
    for name, value in denoiser.params.items():
        np.testing.assert_array_equal(value, again.params[name])
    assert any(not np.array_equal(value, other.params[name]) for name, value in denoiser.params.items())


def test_an_untrained_denoiser_changes_nothing():
    model = build_model("denoiser_cnn(width=4)", (6, 5, 3), 10, KEY)
    x = np.random.default_rng(0).uniform(size=(2, 6, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(model.net(model.params, x), x)


def test_a_denoiser_from_a_file_takes_the_noise_off_again(tmp_path, linear):
    model = build_model("denoiser_cnn(width=4)", (6, 6, 1), 2, KEY)
    text = "denoiser_cnn(width=4)"
    files.save(tmp_path / "model", model, files.describe(model, text, (6, 6, 1), 2))
    protected = build("model_defence", f'purified(checkpoint("{tmp_path / "model"}"), sigma=0.1, rounds=2)').protect(
        KEY, linear.model, linear.data
    )
    assert protected.stochastic
    x, seen = as_unit(linear.data.x[0]), jnp.asarray(as_unit(linear.data.x[0]))
    front, own = protected.params[1], jax.random.key(5)
    for number in range(2):
        seen = jnp.clip(seen + 0.1 * jax.random.normal(jax.random.fold_in(own, number), x.shape), 0, 1)
    np.testing.assert_allclose(front.transform(own, x), seen, atol=1e-6)


def test_what_gives_no_images_is_no_denoiser():
    name = zoo.names()[0]
    data = Dataset(np.zeros((2, 28, 28, 1), np.uint8), np.zeros(2, np.int32), ("a", "b"), "grey")
    with pytest.raises(UserError, match="the denoiser returns shape"):
        build("model_defence", f'purified(zoo("{name}"))').protect(KEY, oracles.tiny()[0], data)


@record
class Seeing(WrappedTraining):
    """Hands on the images with the logits that the model it is shown gives for them in front."""

    defence: Standard

    def perturb(self, key, model, x, y, ids):
        return x * jnp.tanh(jnp.max(jax.vmap(model)(x), -1))[:, None, None, None] ** 2


def test_training_attacks_the_model_behind_the_preprocessing_and_sees_what_comes_out_of_it(tiny):
    model, data = tiny
    by = build("model_defence", "bit_depth(1)")
    defence = build("training", "preprocessed(by=bit_depth(1))").replace(defence=Seeing(Standard()))
    x, y = jnp.asarray(as_unit(data.x[:4])), data.y[:4]
    expected = Seeing(Standard()).perturb(KEY, Classifier(Fronted(model.net), (model.params, by)), x, y, None)
    np.testing.assert_array_equal(defence.perturb(KEY, model, x, y, np.arange(4)), np.round(expected))
    plain = build("training", "preprocessed(standard, random_noise(0.1))")
    noise = np.asarray(plain.perturb(KEY, model, x, y, np.arange(4)) - x)
    assert 0.03 < noise.std() < 0.11 and not np.array_equal(noise[0], noise[1])


@pytest.mark.slow
def test_a_model_is_trained_behind_a_purifier_that_is_fitted_first(tiny):
    model, data = tiny
    recipe = build("recipe", "sgd(epochs=1, batch_size=16, learning_rate=0.01)")
    defence = build("training", "preprocessed(standard, purified(steps=2, batch=4, width=2))")
    trained = fit(KEY, model, data, recipe, defence=defence)
    assert not np.array_equal(trained.params["head/kernel"], model.params["head/kernel"])


def test_a_model_behind_a_preprocessing_rejects_what_the_one_inside_rejects():
    assert Classifier(Fronted(Rejecting(None)), None).rejects and not Classifier(Fronted(None), None).rejects


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("model_defence", "median_filter(1)", "window = 1 must be at least 2"),
        ("model_defence", "non_local_means(search=4)", "search = 4 must be odd; the nearest is 5"),
        ("model_defence", "jpeg(0)", "jpeg: quality = 0 must be from 1 to 100"),
        ("model_defence", "jpeg_codec(101)", "jpeg_codec: quality = 101 must be from 1 to 100"),
        ("model_defence", "resize_pad(0)", "smallest = 0.0 must be above 0"),
        ("model_defence", "random_noise(0)", "sigma = 0.0 must be greater than 0"),
        ("model_defence", "total_variation(dropped=1)", "dropped = 1.0 must be at least 0 and below 1"),
        ("model_defence", "purified(sigma=0)", "sigma = 0.0 must be greater than 0"),
        ("training", "preprocessed(by=vanishing)", "by = 'vanishing' must be one defence that changes images"),
    ],
)
def test_wrong_arguments_are_named(kind, text, message):
    with pytest.raises(UserError, match=message):
        build(kind, text)
