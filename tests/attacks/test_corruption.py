"""Corruptions against the program that made CIFAR-10-C, and what is true of all of them.

PEER holds what that program (github.com/hendrycks/robustness, ImageNet-C/create_c/make_cifar_c.py, with ImageMagick
6.9.11, OpenCV 5.0, scikit-image 0.26, Pillow 13) does to the 16 images of `pictures`: the mean change and its root
mean square in levels of 255, at severities 1 to 5, over 40 draws where it draws.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.corruption.noise import _counts
from robustbench_jax.data import load_dataset
from robustbench_jax.data.corrupted import COMMON, EXTRA
from robustbench_jax.models import build_model
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build, discover
from robustbench_jax.threats import corruption
from robustbench_jax.types import Dataset, UserError

PEER = {
    "gaussian_noise": ((-0.50, -0.53, -0.55, -0.54, -0.55), (10.19, 15.26, 20.28, 22.75, 25.19)),
    "shot_noise": ((-0.52, -0.52, -0.59, -0.57, -0.74), (7.70, 10.83, 17.02, 19.57, 23.78)),
    "impulse_noise": ((0.11, 0.23, 0.33, 0.55, 0.79), (13.95, 19.67, 23.92, 30.96, 36.60)),
    "defocus_blur": ((-0.28, -0.30, -0.32, -0.34, -0.32), (2.41, 6.00, 9.03, 12.04, 16.48)),
    "glass_blur": ((-1.52, -2.24, -2.38, -3.65, -3.79), (22.18, 21.96, 19.91, 28.94, 26.67)),
    "motion_blur": ((-0.34, -0.28, -0.05, -0.16, -0.25), (11.59, 15.99, 19.07, 18.92, 21.35)),
    "zoom_blur": ((-1.01, -0.05, 0.50, 1.49, 2.45), (13.42, 15.58, 17.60, 19.43, 21.10)),
    "snow": ((10.76, 24.23, 25.96, 38.20, 54.41), (13.63, 27.37, 31.31, 43.11, 59.30)),
    "frost": ((31.90, 46.92, 52.45, 46.21, 42.13), (33.46, 49.40, 56.53, 51.20, 49.92)),
    "fog": ((0.87, 1.97, 2.56, 3.91, 4.83), (11.62, 23.27, 30.13, 35.84, 43.31)),
    "brightness": ((10.34, 21.27, 31.76, 41.59, 58.56), (10.68, 22.03, 33.06, 43.59, 62.46)),
    "contrast": ((-0.50, -0.50, -0.51, -0.50, -0.49), (12.80, 25.58, 30.69, 35.80, 43.47)),
    "elastic_transform": ((-0.72, -0.98, -0.79, -0.80, -0.61), (29.45, 27.48, 25.16, 23.61, 20.37)),
    "pixelate": ((0.07, 0.13, 0.15, 0.25, 0.37), (5.49, 7.54, 10.35, 12.37, 13.91)),
    "jpeg_compression": ((-0.06, 0.04, -0.06, -0.11, -0.08), (16.35, 18.01, 18.58, 19.21, 19.98)),
    "speckle_noise": ((-0.53, -0.61, -0.66, -0.78, -1.07), (7.62, 12.56, 14.99, 19.74, 24.37)),
    "gaussian_blur": ((-0.34, -0.30, -0.34, -0.33, -0.36), (2.33, 8.81, 10.99, 12.61, 14.91)),
    "spatter": ((1.08, 2.89, 7.07, -2.48, -4.34), (8.23, 13.34, 19.48, 15.81, 20.84)),
    "saturate": ((16.39, 21.12, -11.76, -25.71, -32.11), (31.25, 40.27, 22.19, 43.07, 50.42)),
}
EXACT = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "gaussian_blur", "saturate")
# Tolerances of the root mean square (0.035 for others that draw) and, in levels, of the mean (1.6).
WIDER, OFF = {"frost": 0.08, "spatter": 0.06, "jpeg_compression": 0.01}, {"frost": 5.0}
FALLING = ("glass_blur", "frost", "elastic_transform", "saturate", "spatter", "motion_blur")  # in the program, too
NAMES = (*COMMON, *EXTRA)
DRAWS = 8
every = pytest.mark.parametrize("name", NAMES)


@functools.cache
def pictures() -> np.ndarray:
    """uint8 [16, 32, 32, 3]: three Fashion-MNIST images as the channels of one, on a rising ground."""
    grey = load_dataset("fashion_mnist_mini", limit=48).x.reshape(16, 3, 28, 28)
    x = np.pad(np.moveaxis(grey, 1, -1), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    return (x // 2 + 40 + 3 * np.arange(32, dtype=np.uint8)[None, :, None, None]).astype(np.uint8)


def after(name: str, severity: int, x: np.ndarray, key: int = 0, **options) -> np.ndarray:
    options = {"runtime": Runtime(width=128, devices=1)} | options
    attack, budget = build("attack", name), build("budget", f"severity({severity})")
    return corruption.corrupted(jax.random.key(key), attack, budget, x, **options)


@functools.cache
def drawn(name: str) -> np.ndarray:
    """uint8 [5, DRAWS, 16, 32, 32, 3]: the pictures at all severities."""
    x = np.tile(pictures(), (DRAWS, 1, 1, 1))
    return np.stack([after(name, severity, x).reshape(DRAWS, *pictures().shape) for severity in range(1, 6)])


def distances(name: str) -> np.ndarray:
    """[5] root mean square changes, in levels."""
    return np.sqrt(((drawn(name).astype(float) - pictures()) ** 2).mean((1, 2, 3, 4, 5)))


def test_there_are_the_15_common_and_the_4_extra_ones():
    found = [name for name, entry in discover("attack").items() if entry.facts["threat"] == "corruption"]
    assert sorted(found) == sorted([*NAMES, "identity"]) and (len(COMMON), len(EXTRA)) == (15, 4)
    assert all(build("attack", name).access == "none" for name in found)


@every
def test_it_changes_images_as_much_as_the_program_of_the_paper(name):
    means, sizes = PEER[name]
    change = (drawn(name).astype(float) - pictures()).mean((1, 2, 3, 4, 5))
    within = 0.004 if name in EXACT else WIDER.get(name, 0.035)
    np.testing.assert_allclose(distances(name), sizes, rtol=within, atol=0.02)
    off = 0.1 if name in EXACT or "noise" in name else OFF.get(name, 1.6)
    np.testing.assert_allclose(change, means, atol=off)


@every
def test_it_changes_more_at_a_higher_severity_unless_the_papers_does_not(name):
    theirs = np.array(PEER[name][1])
    rising = theirs[1:] > 1.01 * theirs[:-1]
    assert rising.all() == (name not in FALLING)
    assert np.all(np.diff(distances(name))[rising] > 0)


@every
def test_the_answer_depends_on_key_and_id_alone(name):
    x, rows = np.tile(pictures(), (DRAWS, 1, 1, 1)), np.random.default_rng(0).permutation(16 * DRAWS)
    shuffled = after(name, 4, x[rows], ids=rows)
    np.testing.assert_array_equal(shuffled, drawn(name)[3].reshape(x.shape)[rows])
    draws = name not in (*EXACT, "jpeg_compression")
    assert np.any(after(name, 4, x, key=1) != drawn(name)[3].reshape(x.shape)) == draws
    assert np.any(drawn(name)[3, 0] != drawn(name)[3, 1]) == draws


@every
def test_black_and_white_images_stay_images(name):
    even = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (0, 255)] * 64)
    found = after(name, 5, even)
    assert found.dtype == np.uint8 and found.shape == even.shape
    smooths = name.endswith("blur") or name in ("contrast", "pixelate", "elastic_transform", "jpeg_compression")
    assert not smooths or np.abs(found.astype(int) - even).max() <= 1  # there is nothing to smooth


def test_all_severities_are_one_program():
    drawn("contrast")
    before = corruption._corrupted._cache_size()
    after("contrast", 2, np.tile(pictures(), (DRAWS, 1, 1, 1)), key=3)
    assert corruption._corrupted._cache_size() == before


@pytest.mark.parametrize("name", ["gaussian_noise", "contrast", "glass_blur"])
def test_the_width_of_the_batch_and_the_devices_do_not_matter(name):
    few, ids = pictures()[:5], np.array([7, 3, 19, 0, 100])
    narrow = after(name, 3, few, ids=ids, runtime=Runtime(width=8, devices=1))
    np.testing.assert_array_equal(narrow, after(name, 3, few, ids=ids, runtime=Runtime(width=16, devices=2)))


@every
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (9, 13, 3), (64, 64, 3), (224, 224, 3)], ids=str)
def test_any_size_and_one_channel_keep_their_shape(name, shape):
    attack = build("attack", name)
    wanted = (jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct(shape, jnp.float32), 3)
    found = jax.eval_shape(attack.corrupt, *wanted)
    assert (found.shape, found.dtype) == (shape, jnp.float32)


@pytest.mark.slow
@every
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (9, 13, 3)], ids=str)
def test_any_size_and_one_channel_give_finite_images(name, shape):
    x = np.random.default_rng(0).random((4, *shape), np.float32)
    keys = jax.random.split(jax.random.key(0), 4)
    for severity in (1, 5):
        corrupt = jax.jit(jax.vmap(build("attack", name).corrupt, (0, 0, None)))
        found = np.asarray(corrupt(keys, x, severity))
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


@every
def test_parameters_are_those_of_the_data_set_that_is_nearest_in_size(name):
    attack = build("attack", name)
    tables = [attack.table(np.zeros((side, side, 3))) for side in (28, 32, 64, 96, 224, 299)]
    for table, own in zip(tables, ("small", "small", "middle", "middle", "large", "large"), strict=True):
        assert len(table) == 5
        np.testing.assert_array_equal(table, np.float32(getattr(attack, own)))


def test_contrast_draws_channels_towards_their_means():
    x = pictures()[:1] / 255.0
    means = x.mean((1, 2), keepdims=True)
    expected = np.floor(255 * (means + 0.15 * (x - means)) + 1e-3)
    assert np.abs(after("contrast", 5, pictures()[:1]) - expected).max() <= 1


def test_impulse_noise_hits_the_share_of_values_that_it_says_with_black_and_white_evenly():
    x = np.full((16, 64, 64, 3), 128, np.uint8)
    found = after("impulse_noise", 5, x)  # 14% at 64 pixels
    black, white = np.mean(found == 0), np.mean(found == 255)
    assert black == pytest.approx(0.07, abs=0.004) and white == pytest.approx(0.07, abs=0.004)
    assert set(np.unique(found)) == {0, 128, 255}


@pytest.mark.parametrize("rate", [0.0, 0.3, 3.0, 7.99, 8.0, 25.0, 500.0])
def test_counts_of_photons_are_poisson(rate):
    """Kolmogorov's distance from the exact distribution, of 200,000 draws: noise alone gives 0.003."""
    from scipy.stats import poisson

    counts = np.asarray(jax.jit(_counts)(jax.random.key(1), jnp.full(200_000, rate)))
    values = np.arange(int(rate + 10 * rate**0.5 + 10))
    reached = np.searchsorted(np.sort(counts), values, side="right") / len(counts)
    assert np.abs(reached - poisson.cdf(values, rate)).max() < 0.004


def test_glass_blur_moves_pixels_and_makes_none():
    """At severity 1 the blur is nothing, so every colour of a row of the result stood there or beside it before."""
    x = np.zeros((1, 16, 16, 3), np.uint8)
    x[0, ..., 0], x[0, ..., 1] = np.mgrid[:16, :16] * 10
    down, right, _ = np.moveaxis(after("glass_blur", 1, x)[0].astype(int) // 10, -1, 0)
    rows, columns = np.mgrid[:16, :16]
    assert np.all(down <= rows) and np.all(rows - down <= 15) and np.any(down != rows)
    np.testing.assert_array_equal(down[[0, 1]], rows[[0, 1]])  # the program leaves the rim as it is
    np.testing.assert_array_equal(right[:, [0, 1]], columns[:, [0, 1]])


def test_an_outcome_counts_every_image_whatever_was_made_of_the_clean_one(tiny):
    model, data = tiny
    found = run("gaussian_noise", 5, model, data)
    clean, right = found.arrays["clean_correct"], found.arrays["robust"]
    assert (found.metrics["corrupted_accuracy"].value, found.metrics["corrupted_accuracy"].n) == (
        right.mean(),
        len(data),
    )
    assert found.metrics["clean_accuracy"].value == clean.mean()
    assert found.arrays["x_adv"].shape == data.x.shape and found.counts["forward_evaluations"] == 2 * len(data)
    assert found.metrics["distortion"].value == pytest.approx(0.1, abs=0.02)


def test_identity_leaves_images_alone_and_says_nothing_of_clean_ones(tiny):
    model, data = tiny
    found = corruption.run(jax.random.key(0), model, data, build("attack", "identity"), build("budget", "unchanged"))
    np.testing.assert_array_equal(np.round(255 * found.arrays["x_adv"]), data.x)
    assert list(found.metrics) == ["corrupted_accuracy"]


def test_images_of_fewer_than_8_pixels_are_refused():
    data = Dataset(np.zeros((2, 7, 9, 1), np.uint8), np.zeros(2, np.int32), ("a", "b"), "small")
    with pytest.raises(UserError, match="images of 7x9: corruptions need at least 8 pixels"):
        run("fog", 1, build_model("mlp", (7, 9, 1), 2, jax.random.key(0)), data)


def test_an_unknown_corruption_is_named_with_the_nearest():
    with pytest.raises(UserError, match="no attack 'gausian_noise'; did you mean 'gaussian_noise'?"):
        build("attack", "gausian_noise")


def run(name, severity, model, data):
    attack, budget = build("attack", name), build("budget", f"severity({severity})")
    return corruption.run(jax.random.key(0), model, data, attack, budget)
