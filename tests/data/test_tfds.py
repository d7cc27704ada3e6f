"""The TFDS loaders, on small datasets that the test prepares on disk in TFDS's own array_record format."""

import io
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from robustbench_jax.data import load_dataset
from robustbench_jax.types import UserError

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")


def encoded(array, form="png"):
    file = io.BytesIO()
    Image.fromarray(array.squeeze()).save(file, form)
    return file.getvalue()


def prepare(root, dataset, shape, splits, names, *, ids=False, file_format="array_record", version="1.0.0"):
    """Writes {split: [(image, label), ...]} where TFDS's own builder of that name would have."""
    features = {
        "image": tensorflow_datasets.features.Image(shape=shape),
        "label": tensorflow_datasets.features.ClassLabel(names=names),
    }
    if ids:
        features["id"] = tensorflow_datasets.features.Text()

    def examples(split):
        for i, (image, label) in enumerate(splits[split]):
            mark = {"id": f"{split}_{i:05d}"} if ids else {}
            yield i, {"image": io.BytesIO(image), "label": label} | mark

    def info(self):
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=tensorflow_datasets.features.FeaturesDict(features)
        )

    members = {
        "name": dataset,
        "VERSION": tensorflow_datasets.core.Version(version),
        "_info": info,
        "_split_generators": lambda self, manager: {split: examples(split) for split in splits},
        "_generate_examples": lambda self: None,
        "__module__": "tiny",
    }
    with tensorflow_datasets.core.registered.skip_registration():
        builder = type("Tiny", (tensorflow_datasets.core.GeneratorBasedBuilder,), members)
    builder(data_dir=str(root), file_format=file_format).download_and_prepare()
    return root / dataset / version


def pictures(count, shape, start=0):
    return [np.full(shape, start + i, np.uint8) for i in range(count)]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("tried the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    "name, shape, classes",
    [
        ("mnist", (28, 28, 1), 10),
        ("fashion_mnist", (28, 28, 1), 10),
        ("cifar10", (32, 32, 3), 10),
        ("cifar100", (32, 32, 3), 100),
        ("svhn_cropped", (32, 32, 3), 10),
    ],
)
def test_every_example_is_read_without_tensorflow_or_net(root, no_network, monkeypatch, name, shape, classes):
    monkeypatch.setattr("robustbench_jax.data.fashion_mnist.DEBIAN", root / "none")
    test = [(encoded(image), 9 - i) for i, image in enumerate(pictures(6, shape, start=40))]
    train = [(encoded(image), i) for i, image in enumerate(pictures(9, shape))]
    prepare(root, name, shape, {"train": train, "test": test}, [f"class {i}" for i in range(classes)])
    data = load_dataset(name)
    assert (data.x.shape, data.x.dtype, data.y.dtype) == ((6, *shape), np.uint8, np.int32)
    read = {int(x.min()): int(y) for x, y in zip(data.x, data.y, strict=True)}
    assert read == {40 + i: 9 - i for i in range(6)}
    assert len(load_dataset(name, "train")) == 9
    assert len(data.classes) == classes
    assert "tensorflow" not in sys.modules


def test_a_limit_reads_the_same_first_examples_as_no_limit(root):
    examples = [(encoded(image), i) for i, image in enumerate(pictures(8, (28, 28, 1)))]
    prepare(root, "mnist", (28, 28, 1), {"test": examples}, list("0123456789"))
    assert load_dataset("mnist", limit=3).digest == load_dataset("mnist").take(3).digest
    with pytest.raises(UserError, match="examples = 9: mnist has 8"):
        load_dataset("mnist", limit=9)


def test_ids_give_the_original_order_back(root):
    examples = [(encoded(image), i % 10) for i, image in enumerate(pictures(30, (32, 32, 3)))]
    prepare(root, "cifar10", (32, 32, 3), {"test": examples}, [f"class {i}" for i in range(10)], ids=True)
    assert load_dataset("cifar10").x[:, 0, 0, 0].tolist() == list(range(30))
    data = load_dataset("cifar10", limit=12)
    assert data.x[:, 0, 0, 0].tolist() == list(range(12))
    assert data.classes[:3] == ("airplane", "automobile", "bird")


def test_imagenet_is_resized_cropped_and_read_from_the_validation_split(root):
    wide = np.zeros((256, 400, 3), np.uint8)
    wide[:, 200:] = 200
    grey = np.full((300, 256), 90, np.uint8)
    examples = [(encoded(wide, "png"), 0), (encoded(grey, "jpeg"), 1)]
    prepare(root, "imagenet2012", (None, None, 3), {"validation": examples}, ["tench", "goldfish"])
    data = load_dataset("imagenet2012")
    assert data.x.shape == (2, 224, 224, 3)
    by_class = {data.classes[y]: x for x, y in zip(data.x, data.y, strict=True)}
    np.testing.assert_array_equal(by_class["tench"], wide[16:240, 88:312])
    assert abs(by_class["goldfish"].astype(int) - 90).max() <= 1
    assert load_dataset("imagenet2012(size=32, resize=36)", limit=1).x.shape == (1, 32, 32, 3)


def test_imagenet_decodes_only_what_is_asked_for(root):
    examples = [(encoded(image), 0) for image in pictures(5, (256, 256, 3))]
    prepare(root, "imagenet2012", (None, None, 3), {"validation": examples}, ["tench"])
    value = int(load_dataset("imagenet2012", limit=1).x.max())
    harmed = [(e, 0) if i == value else (b"\x89PNG\r\n\x1a\n broken", 0) for i, (e, _) in enumerate(examples)]
    prepare(root, "imagenet2012", (None, None, 3), {"validation": harmed}, ["tench"], version="1.0.1")
    assert int(load_dataset("imagenet2012", limit=1).x.max()) == value
    with pytest.raises(UserError, match="an image of imagenet2012 is no picture"):
        load_dataset("imagenet2012", limit=2)


def test_an_imagenet_crop_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match="resize = 200 must be at least size = 224"):
        load_dataset("imagenet2012(resize=200)")


def test_the_newest_prepared_version_is_read(root):
    for version, value in (("3.0.2", 2), ("3.0.10", 10), ("3.0.9", 9)):
        examples = [(encoded(np.full((28, 28), value, np.uint8)), 0)]
        prepare(root, "mnist", (28, 28, 1), {"test": examples}, ["0"], version=version)
    assert load_dataset("mnist").x.max() == 10


def test_a_dataset_that_is_not_prepared_says_how_to_get_it_and_what_is_here(root):
    for name in ("mnist", "cifar10", "cifar100", "svhn_cropped", "imagenet2012"):
        with pytest.raises(UserError) as caught:
            load_dataset(name)
        message = str(caught.value)
        assert f"tfds.builder('{name}', file_format='array_record').download_and_prepare()" in message
        assert "pip install tensorflow" in message and "\n" not in message
        assert "here: census, fashion_mnist" in message and "fashion_mnist_mini" in message
        assert ("ILSVRC2012_img_val.tar" in message) == (name == "imagenet2012")


def test_a_dataset_without_the_split_or_in_another_file_format_is_refused(root):
    examples = [(encoded(image), 0) for image in pictures(3, (28, 28, 1))]
    where = prepare(root, "mnist", (28, 28, 1), {"train": examples}, ["0"])
    with pytest.raises(UserError, match="mnist cannot be read .*test"):
        load_dataset("mnist")
    info = where / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="file format without random access; delete .*mnist"):
        load_dataset("mnist", "train")


@pytest.mark.parametrize("harm", ["missing", "cut", "noise", "features"])
def test_damaged_files_are_refused_with_the_way_to_repair_them(root, harm):
    noise = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    where = prepare(root, "mnist", (28, 28, 1), {"test": [(encoded(x), 0) for x in noise]}, ["0"])
    shard = next(where.glob("*-test.array_record-*"))
    if harm == "missing":
        shard.unlink()
    elif harm == "cut":
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    elif harm == "noise":
        shard.write_bytes(noise.tobytes())
    else:
        (where / "features.json").write_text("{")
    with pytest.raises(UserError, match="mnist (is no picture|.*prepare it again: .*download_and_prepare)"):
        load_dataset("mnist")


def test_importing_the_datasets_imports_neither_tfds_nor_tensorflow():
    program = (
        "import sys; from robustbench_jax.registry import build, discover; discover('dataset');"
        "build('dataset', 'cifar10').available();"
        "print([m for m in ('tensorflow_datasets', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
