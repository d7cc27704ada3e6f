"""The embedded part of Fashion-MNIST, and the IDX files that it is made from."""

import gzip
import lzma
import runpy
import struct
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from robustbench_jax.data import fashion_mnist, load_dataset, tfds
from robustbench_jax.types import UserError

needs_debian = pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="no dataset-fashion-mnist")


def write_idx(path: Path, array: np.ndarray) -> None:
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), 1))


@pytest.mark.parametrize("split, count", [("train", 10_000), ("test", 2_000)])
def test_the_embedded_part_is_uint8_images_in_ten_named_classes(split, count):
    data = load_dataset("fashion_mnist_mini", split)
    assert (data.x.shape, data.x.dtype, data.y.dtype) == ((count, 28, 28, 1), np.uint8, np.int32)
    assert data.classes[9] == "Ankle boot" and len(data.classes) == 10
    assert np.bincount(data.y, minlength=10).min() > 0.08 * count


def test_the_first_training_image_is_the_ankle_boot_and_labels_are_in_the_original_order():
    assert load_dataset("fashion_mnist_mini", "train").y[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert load_dataset("fashion_mnist_mini", "test").y[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_the_licence_lies_beside_the_embedded_images():
    text = resources.files("robustbench_jax.data").joinpath("embedded/LICENSE.fashion-mnist").read_text()
    assert "Zalando SE" in text and "Permission is hereby granted, free of charge" in text


def test_writing_into_a_loaded_dataset_leaves_the_next_one_as_it_was():
    first = load_dataset("fashion_mnist_mini", limit=3)
    before = first.digest
    first.x[:], first.y[:] = 0, 0
    assert load_dataset("fashion_mnist_mini", limit=3).digest == before


@needs_debian
@pytest.mark.parametrize("split, count", [("train", 60_000), ("test", 10_000)])
def test_the_embedded_part_is_the_beginning_of_the_whole(split, count):
    mini, whole = (load_dataset(name, split) for name in ("fashion_mnist_mini", "fashion_mnist"))
    assert len(whole) == count
    assert mini.digest == whole.take(len(mini)).digest


@needs_debian
@pytest.mark.slow
def test_the_script_makes_the_embedded_file_byte_for_byte(tmp_path, monkeypatch):
    target, written = Path(fashion_mnist.__file__).parent / fashion_mnist.EMBEDDED, {}
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: written.setdefault(path.name, content))
    script = Path(__file__).parents[2] / "scripts/embed_fashion_mnist.py"
    runpy.run_path(str(script), run_name="__main__")
    assert written == {target.name: target.read_bytes()}


def test_the_embedded_file_decompresses_to_twelve_thousand_rows_of_785_bytes():
    packed = resources.files("robustbench_jax.data").joinpath(fashion_mnist.EMBEDDED).read_bytes()
    assert len(packed) < 5_000_000
    assert len(lzma.decompress(packed)) == 12_000 * 785 + 128


def test_idx_files_are_read_from_where_the_package_puts_them(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path)
    monkeypatch.setattr(tfds, "directory", lambda: tmp_path / "none")
    images = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
    for split, labels in (("train", [1, 2, 3]), ("test", [4, 5, 9])):
        assert not fashion_mnist.FashionMNIST().available()
        write_idx(fashion_mnist.idx_file(split, "images-idx3"), images)
        write_idx(fashion_mnist.idx_file(split, "labels-idx1"), np.array(labels))
    data = load_dataset("fashion_mnist", limit=2)
    np.testing.assert_array_equal(data.x[..., 0], images[:2])
    assert data.y.tolist() == [4, 5]


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda raw: gzip.compress(gzip.decompress(raw)[:-1]), "no IDX file"),
        (lambda raw: gzip.compress(b"\0\0\x0d\x01" + gzip.decompress(raw)[4:]), "no IDX file"),
        (lambda raw: gzip.compress(b"\0\0\x08"), "no IDX file"),
        (lambda raw: gzip.compress(b"\0\0\x08\xff\0"), "no IDX file"),
        (lambda raw: gzip.compress(b""), "no IDX file"),
        (lambda raw: raw[:-9], "no gzip file"),
        (lambda raw: raw[:15] + bytes([raw[15] ^ 255]) + raw[16:], "no gzip file"),
        (lambda raw: b"<html>", "no gzip file"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, harm, message):
    path = tmp_path / "labels.gz"
    write_idx(path, np.arange(200))
    np.testing.assert_array_equal(fashion_mnist.read_idx(path), np.arange(200))
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(UserError, match=f"labels.gz.*{message}"):
        fashion_mnist.read_idx(path)
