"""Model inversion: what a linear model looks at is seen, the control shows nothing, the judge is another model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.bench import privacy_table, records
from robustbench_jax.cli import main
from robustbench_jax.models import build_model
from robustbench_jax.registry import build, discover
from robustbench_jax.threats import model_inversion
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Dataset, UserError

KEY = jax.random.key(0)
SHAPE, CLASSES = (6, 6, 1), 3
ATTACKS = [
    name if name != "mi_face" else "mi_face(steps=20)"
    for name, e in discover("attack").items()
    if e.facts["threat"] == "model_inversion"
]


def blocks(count=60, seed=0):
    """Class c has rows 2 c and 2 c + 1 lit."""
    rng = np.random.default_rng(seed)
    y = np.arange(count, dtype=np.int32) % CLASSES
    x = rng.integers(0, 60, (count, *SHAPE)).astype(np.uint8)
    for image, label in zip(x, y, strict=True):
        image[2 * label : 2 * label + 2] += 180
    return Dataset(x, y, tuple("abc"), "blocks")


def reading(seed=0):
    """A linear model that reads the rows."""
    model = build_model("mlp([])", SHAPE, CLASSES, jax.random.key(seed))
    rows = np.repeat(np.arange(6) // 2, 6)
    kernel = 4.0 * np.eye(CLASSES)[rows] / 12 + 0.01 * np.random.default_rng(seed).normal(size=(36, CLASSES))
    return model.replace(params=model.params | {"head/kernel": jnp.asarray(kernel, jnp.float32)})


class Trainer:
    def __init__(self):
        self.asked = []

    def __call__(self, data, *, controller=None, surrogate=None):
        self.asked.append(surrogate)
        return reading(0 if surrogate is None else 1 + surrogate)


def run(text, count=4):
    lab = Lab(KEY, blocks(), blocks(30, 1), Trainer())
    found = model_inversion.run(
        KEY, lab, blocks(30, 1), build("attack", text), build("budget", f"reconstructions({count})")
    )
    return found, lab


@pytest.mark.parametrize("text", ATTACKS)
def test_there_are_as_many_images_of_each_class_as_was_said_and_the_same_for_the_same_key(text):
    one, other = run(text)[0], run(text)[0]
    x = one.artefacts["reconstructions"]
    assert x.shape == (12, *SHAPE) and x.dtype == np.uint8 and np.bincount(one.artefacts["labels"]).tolist() == [4] * 3
    np.testing.assert_array_equal(x, other.artefacts["reconstructions"])


def test_what_a_model_looks_at_is_seen_and_another_model_recognises_it():
    found, lab = run("mi_face(steps=200, tv=0.1)")
    x, labels = found.artefacts["reconstructions"].astype(float), found.artefacts["labels"]
    assert found.metrics["inversion_accuracy"].value == 1.0 and found.metrics["class_mean_ssim"].value > 0.5
    for image, label in zip(x, labels, strict=True):
        lit = np.zeros(6, bool)
        lit[2 * label : 2 * label + 2] = True
        assert image[lit].mean() > image[~lit].mean() + 60
    assert lab.fit.asked == [None, 0]  # the judge is a model of another seed


def test_the_control_is_taken_for_its_class_by_chance():
    found = run("prior_sample", 40)[0].metrics
    assert 0.15 < found["inversion_accuracy"].value < 0.55
    assert found["class_mean_ssim"].value < run("mi_face(steps=200, tv=0.1)", 2)[0].metrics["class_mean_ssim"].value


def test_the_verb_draws_the_classes_and_the_table_has_a_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", "mlp([])", "--recipe", "sgd(epochs=1)", "--dataset", "fashion_mnist_mini", "--out", "out"]
    arguments += ["--attack", "mi_face(steps=5)", "--budget", "reconstructions(1)", "--examples", "50", "--save-images"]
    assert main(["privacy", *arguments]) == 0
    found, _ = records.read_all(tmp_path / "out")
    assert (tmp_path / "out" / "images" / f"{found[0].id}.png").read_bytes().startswith(b"\x89PNG")
    page = privacy_table.sheets(found)[0]
    assert "model inversion" in page.title and page.rows[0][0].startswith("mi_face(5)") and page.rows[0][-1] == "1"


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("budget", "reconstructions(0)", "reconstructions: n = 0 must be at least 1"),
        ("attack", "mi_face(steps=0)", "mi_face: steps = 0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(kind, text, message):
    with pytest.raises(UserError, match=message):
        build(kind, text)
