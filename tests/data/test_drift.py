"""Drift against a trusted sample: false alarms at their rate, and alarms where images or labels are others."""

import numpy as np
import pytest

from robustbench_jax.cli import main
from robustbench_jax.data import load_dataset
from robustbench_jax.data.drift import discrepancy, drift
from robustbench_jax.types import Dataset, UserError
from tests import oracles


def test_the_discrepancy_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 3))
    points = np.concatenate([a, b])
    away = np.sum((points[:, None] - points) ** 2, -1)
    kernel = np.exp(-away / np.median(away[np.triu_indices(12, 1)]))
    expected = kernel[:6, :6].mean() + kernel[6:, 6:].mean() - 2 * kernel[:6, 6:].mean()
    assert discrepancy(points, 6, rng)[0] == pytest.approx(expected)


def test_samples_of_one_distribution_are_told_apart_at_the_stated_rate():
    rng = np.random.default_rng(1)
    p_values = [discrepancy(rng.normal(size=(40, 4)), 20, rng)[1] for _ in range(200)]
    assert np.mean(np.array(p_values) < 0.05) < 0.1 and min(p_values) >= 1 / 1000


def noise(count, seed, shift=0):
    data = oracles.noise_images(count, (6, 6, 1), 3, seed)
    return Dataset(np.clip(data.x.astype(int) + shift, 0, 255).astype(np.uint8), data.y, data.classes, "n")


def test_brighter_images_and_other_labels_are_drift():
    trusted = noise(200, 0)
    assert not drift(noise(200, 1), trusted).found()
    brighter = drift(noise(200, 1, 25), trusted)
    assert brighter.found() and brighter.images < 0.005 < brighter.labels
    data = noise(200, 1)
    one = Dataset(data.x, np.where(np.arange(200) < 80, 0, data.y), data.classes, "n")
    skewed = drift(one, trusted)
    assert skewed.found() and skewed.labels < 0.005 < skewed.images


def test_the_verb_says_so_and_exits_with_one(tmp_path, capsys):
    train, test = (load_dataset("fashion_mnist_mini", split, 200) for split in ("train", "test"))
    for name, moved in (("same", 0), ("brighter", 60)):
        x = [np.clip(d.x.astype(int) + moved, 0, 255).astype(np.uint8) for d in (train, test)]
        np.savez(tmp_path / f"{name}.npz", x_train=x[0], y_train=train.y, x_test=x[1], y_test=test.y)
    codes = [
        main(["manifest", "--dataset", f'npz("{tmp_path}/{name}.npz")', "--against", f'npz("{tmp_path}/same.npz")'])
        for name in ("same", "brighter")
    ]
    said = capsys.readouterr()
    assert codes == [0, 1] and "train: DRIFTED: p = 0.001 of the images" in said.out + said.err


@pytest.mark.parametrize(
    "other, message",
    [
        (oracles.noise_images(9, (5, 5, 1), 3, 0), "drift: images"),
        (oracles.noise_images(9, (6, 6, 1), 4, 0), "drift: 3 classes against 4"),
        (oracles.noise_images(1, (6, 6, 1), 3, 0), "drift: 1 images; at least 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(other, message):
    with pytest.raises(UserError, match=message):
        drift(noise(9, 0), other)
