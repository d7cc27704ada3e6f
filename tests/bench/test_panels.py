"""Panels of clean image, perturbation and adversarial image."""

import io

import numpy as np
import pytest
from PIL import Image

from robustbench_jax.bench import panels, runner
from robustbench_jax.bench.panels import Example, panel
from robustbench_jax.types import Classifier, Dataset
from tests.oracles import affine


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), float)


def example(channels: int = 1, delta: float = 0.2, name: str = "a $shirt$") -> Example:
    x = np.full((8, 8, channels), 0.5, np.float32)
    return Example(3, x, x + np.float32(delta), name, "boot")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_of_any_number_of_channels_are_drawn(channels):
    assert panel([example(channels)] * 3, "pgd · linf($0.1$)").startswith(b"\x89PNG")


def test_more_examples_make_a_wider_picture_and_the_perturbation_is_seen():
    one, eight = (pixels(panel([example()] * count, "t")) for count in (4, 8))
    assert eight.shape[1] > one.shape[1]
    changed = pixels(panel([example(delta=-0.2)] * 4, "t"))
    assert np.abs(changed - one).mean() > 5


def test_the_stored_examples_of_a_cell_are_drawn_into_its_results(tmp_path):
    model = Classifier(affine, {"w": np.eye(16, 2, dtype=np.float32), "b": np.array([0.0, 0.4], np.float32)})
    data = Dataset(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int32), ("a", "b"), "d")
    runner.records.write_arrays(tmp_path, "x", {"ids": np.array([0, 2]), "x_adv": np.zeros((2, 4, 4, 1), np.float32)})
    path = panels.save(tmp_path, "x", "title", model, data)
    assert path == tmp_path / "images" / "x.png" and path.read_bytes().startswith(b"\x89PNG")
    runner.records.write_arrays(tmp_path, "y", {"ids": np.array([], int), "x_adv": np.zeros((0, 4, 4, 1))})
    assert panels.save(tmp_path, "y", "title", model, data) is None
    assert panels.save(tmp_path, "missing", "title", model, data) is None
