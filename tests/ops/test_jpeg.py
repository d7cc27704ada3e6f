"""JPEG against Pillow's: the same coefficients but for a few that lie between two levels."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from robustbench_jax.ops.jpeg import jpeg

compressed = jax.jit(jpeg)


def scene(height, width, channels):
    """Gradients, an edge and some grain: what a picture has."""
    rng = np.random.default_rng(height * width)
    down, right = np.mgrid[:height, :width]
    waves = [np.sin(down / (5 + c)) + np.cos(right / (7 - c)) + (right > width // 2) for c in range(channels)]
    x = 128 + 35 * np.stack(waves, -1) + rng.normal(0, 6, (height, width, channels))
    return np.clip(x, 0, 255).astype(np.uint8)


def pillows(x, quality):
    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(x.shape)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


def ours(x, quality):
    return np.asarray(np.round(255 * compressed(x / np.float32(255), quality))).astype(np.uint8)


@pytest.mark.parametrize("quality", [80, 65, 58, 50, 40, 25, 18, 15, 10, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_what_pillow_writes_and_reads(quality, channels):
    """Measured: 45 to 74 dB, by machine: a coefficient that lies between two levels goes either way, and is worth 45 dB
    alone; compression itself changes 26 to 34 dB.
    """
    x = scene(32, 48, channels)
    theirs = pillows(x, quality)
    assert psnr(ours(x, quality), theirs) > max(42, psnr(x, theirs) + 10)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (31, 17)])
@pytest.mark.parametrize("channels", [1, 3])
def test_sides_that_are_no_multiples_of_the_block_are_padded_as_pillow_pads_them(shape, channels):
    x = scene(*shape, channels)
    assert psnr(ours(x, 50), pillows(x, 50)) > 41


def test_lower_qualities_change_more():
    x = scene(32, 32, 3)
    losses = [psnr(x, ours(x, quality)) for quality in (95, 80, 50, 25, 10)]
    assert losses == sorted(losses, reverse=True) and losses[0] - losses[-1] > 5


def test_an_even_image_survives_any_quality_to_a_step_of_its_mean():
    grey = np.full((16, 16, 1), 0.5, np.float32)
    assert np.abs(compressed(grey, 10) - grey).max() <= 0.5 / 255 + 1e-6


def test_another_quality_compiles_nothing():
    x = scene(16, 16, 3) / np.float32(255)
    compressed(x, 30)
    before = compressed._cache_size()
    compressed(x, 31)
    assert compressed._cache_size() == before
