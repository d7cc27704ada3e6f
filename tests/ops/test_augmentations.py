"""Augmentations: the tables are Pillow's to the level, motions move what they say."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

from robustbench_jax.ops import augmentations
from robustbench_jax.ops.augmentations import MOTIONS, TABLES, augmented

KEY = jax.random.key(0)
PILLOW = {
    "autocontrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "posterize": lambda image, level: ImageOps.posterize(image, 4 - int(level * 4 / 10)),
    "solarize": lambda image, level: ImageOps.solarize(image, 256 - int(level * 256 / 10)),
}


def image(kind, channels):
    rng = np.random.default_rng(3)
    x = rng.normal(120, 40, (16, 12, channels)).clip(20, 230)
    x = np.full_like(x, 77) if kind == "flat" else np.where(x < 120, 0, x) if kind == "dark" else x
    return x.astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "dark", "flat"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_pillow(name, channels, kind):
    x = image(kind, channels)
    for level in (0.1, 2.4, 3.0, 7.7):
        theirs = PILLOW[name](Image.fromarray(x[..., 0] if channels == 1 else x), level)
        ours = augmented(KEY, x.astype(np.float32), TABLES.index(name), level)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs).reshape(x.shape))


@pytest.mark.parametrize("name, shift", [("translate_x", (0, 4)), ("translate_y", (5, 0))])
def test_translations_move_whole_pixels_either_way(name, shift):
    x = image("noise", 1).astype(np.float32)
    padded = np.pad(x, ((8, 8), (8, 8), (0, 0)))
    expected = [padded[8 + s * shift[0] :, 8 + s * shift[1] :][:16, :12] for s in (1, -1)]
    found = [np.asarray(augmented(key, x, len(TABLES) + MOTIONS.index(name), 10.0)) for key in jax.random.split(KEY, 8)]
    assert all(any(np.array_equal(f, e) for e in expected) for f in found)
    assert all(any(np.array_equal(f, e) for f in found) for e in expected)


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y"])
def test_turns_and_shears_are_those_of_pillow_to_a_level(name):
    x = np.zeros((16, 16), np.uint8)
    x[4:12, 3:9], level = np.linspace(40, 240, 48).reshape(8, 6), 3.0
    shear, size = level * 0.3 / 10, (16, 16)
    pillow = Image.fromarray(x)
    theirs = {
        "rotate": lambda s: pillow.rotate(s * int(level * 3), resample=Image.BILINEAR),
        "shear_x": lambda s: pillow.transform(size, Image.AFFINE, (1, s * shear, 0, 0, 1, 0), Image.BILINEAR),
        "shear_y": lambda s: pillow.transform(size, Image.AFFINE, (1, 0, 0, s * shear, 1, 0), Image.BILINEAR),
    }[name]
    which = len(TABLES) + MOTIONS.index(name)
    found = [
        np.asarray(augmented(key, x[..., None].astype(np.float32), which, level))[..., 0]
        for key in jax.random.split(KEY, 8)
    ]
    inner = np.s_[2:-2, 2:-2]  # at the edges Pillow does not blend with the black outside
    apart = np.array([[np.abs(f - np.asarray(theirs(s), float))[inner].max() for s in (1, -1)] for f in found])
    assert np.all(apart.min(1) <= 2) and set(apart.argmin(1)) == {0, 1}


def test_every_operation_has_a_place():
    assert len(TABLES) + len(MOTIONS) == augmentations.COUNT == 9
