"""Model inversion: what a linear model looks at is seen, the control shows nothing, the judge is another model, and
generators know no class of the victim's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from robustbench_jax.attacks.privacy.brep_mi import repelled
from robustbench_jax.bench import privacy_table, records
from robustbench_jax.cli import main
from robustbench_jax.data import load_dataset
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.models.gan import entropy, is_real
from robustbench_jax.models.variational import decode, divergence
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import build, discover
from robustbench_jax.threats import model_inversion
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Classifier, Dataset, UserError

KEY = jax.random.key(0)
SHAPE, CLASSES = (6, 6, 1), 3
QUICK = "codes=6, width=32, recipe=adamw(epochs=80, batch_size=30, learning_rate=0.01)"
GAN = "codes=6, width=32, epochs=150, batch_size=40, gan_rate=0.003"
CALLS = {
    "mi_face": "mi_face(steps=20)",
    "gmi": f"gmi(npz('public.npz'), steps=20, {QUICK})",
    "brep_mi": f"brep_mi(npz('public.npz'), rounds=5, points=8, starts=50, {QUICK})",
    "kedmi": f"kedmi(npz('public.npz'), steps=20, {GAN.replace('epochs=150', 'epochs=5')})",
}
ATTACKS = [CALLS.get(n, n) for n, e in discover("attack").items() if e.facts["threat"] == "model_inversion"]


@pytest.fixture(autouse=True)
def public(tmp_path, monkeypatch):
    """public.npz: each row pair is lit or not, by chance; its classes are none of the victim's."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    lit = np.repeat(rng.integers(0, 2, (120, 3)), 2, axis=1)[:, :, None, None]
    x = (rng.integers(0, 60, (120, *SHAPE)) + 180 * lit).astype(np.uint8)
    np.savez("public.npz", x=x, y=np.arange(120) % 2, classes=["p", "q"])


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


def generated(text, model, count=4):
    """Images of an inversion, `count` of each class."""
    return build("attack", text).invert(KEY, model, jnp.repeat(jnp.arange(CLASSES), count), SHAPE)


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


def test_gmi_climbs_and_what_it_finds_is_recognised():
    labels = jnp.repeat(jnp.arange(CLASSES), 4)
    before, after = (
        -optax.softmax_cross_entropy_with_integer_labels(reading()(generated(text, reading())), labels)
        for text in (f"gmi(npz('public.npz'), steps={steps}, prior=0.0, {QUICK})" for steps in (0, 100))
    )
    assert (after > before).all()
    found = run(f"gmi(npz('public.npz'), steps=100, {QUICK})")[0].metrics
    assert found["inversion_accuracy"].value == 1.0 and found["class_mean_ssim"].value > 0.5


def test_where_the_prior_is_all_gmi_ends_at_the_image_of_the_most_likely_code():
    attack = build("attack", f"gmi(npz('public.npz'), steps=400, prior=1e6, {QUICK})")
    x = attack.invert(KEY, reading(), jnp.arange(CLASSES), SHAPE)
    likely = decode(attack.generator(stream(KEY, "generator"), SHAPE), jnp.zeros(6), SHAPE)
    np.testing.assert_allclose(x, jnp.broadcast_to(likely, x.shape), atol=0.01)


def _twisted(params, x):
    """Other logits than those of `reading`, in the same order."""
    return jnp.sinh(3 * reading().net(params, x)) + 5


def test_brep_mi_looks_at_labels_only_and_stays_in_the_class():
    text = f"brep_mi(npz('public.npz'), rounds=20, starts=200, {QUICK})"
    x = generated(text, reading())
    np.testing.assert_array_equal(x, generated(text, Classifier(_twisted, reading().params)))
    assert (jnp.argmax(reading()(x), -1) == jnp.repeat(jnp.arange(CLASSES), 4)).all()
    first = f"gmi(npz('public.npz'), steps=100, prior=0.0, {QUICK})"
    assert (generated(first, reading()) != generated(first, Classifier(_twisted, reading().params))).any()


def test_a_code_is_repelled_along_the_normal_of_a_boundary():
    """Inside is where the first entry is positive: from beside the boundary the code moves by a third of the radius
    in that direction, as nearly as 4,000 points tell; deep inside only the sphere grows.
    """
    attack = build("attack", "brep_mi(npz('public.npz'), points=4000)")
    z, radius = repelled(KEY, lambda z: z[:, 0] > 0, jnp.full(4, 0.1), 1.0, attack)
    np.testing.assert_allclose(z, [0.1 + 1 / 3, 0.1, 0.1, 0.1], atol=0.03)
    assert radius == 1.0
    z, radius = repelled(KEY, lambda z: z[:, 0] > 0, jnp.full(4, 1.1), 1.0, attack)
    np.testing.assert_allclose(z, 1.1)
    assert np.isclose(radius, 1.3)


def test_the_discriminator_of_kedmi_learns_what_the_model_says_of_public_images():
    x = as_unit(load_dataset("npz('public.npz')", "train").x)
    said = jax.nn.softmax(reading()(x))
    for enriched, least, most in ((True, 0.0, 0.05), (False, 0.2, 1.0)):
        attack = build("attack", f"kedmi(npz('public.npz'), enriched={enriched}, {GAN})")
        generator, discriminator = attack.gan(KEY, reading(), SHAPE)
        assert least <= jnp.mean(jnp.abs(jax.nn.softmax(discriminator(x)) - said)) <= most
        made = generator(jax.random.normal(KEY, (200, 6)))
        assert jnp.abs(made.mean(0) - x.mean(0)).mean() < 0.12


def test_kedmi_finds_images_that_another_model_recognises_and_no_two_alike():
    text = f"kedmi(npz('public.npz'), steps=100, {GAN})"
    found = run(text)[0]
    assert found.metrics["inversion_accuracy"].value == 1.0 and found.metrics["class_mean_ssim"].value > 0.4
    x = found.artefacts["reconstructions"].reshape(CLASSES, 4, -1)
    assert all(len(np.unique(each, axis=0)) == 4 for each in x)
    drawn = run(text.replace("steps=100", "steps=0"))[0]
    assert drawn.metrics["inversion_accuracy"].value < 0.8


def test_a_distribution_goes_where_the_model_is_sure_and_becomes_narrow_where_it_would_not_be():
    """The image is the code; the model is surer of class k the nearer the first entry is to 2 k - 1, and does not look
    at the second one, which keeps mean 0 and variance 1.
    """
    attack = build("attack", "kedmi(npz('public.npz'), codes=2, steps=600, draws=64)")
    same = Classifier(lambda params, z: z, {})
    model = Classifier(lambda params, z: jnp.append(-((z[0] - jnp.array([-1.0, 1.0])) ** 2), -1.0) * 9, {})
    indifferent = Classifier(lambda params, x: jnp.zeros((*x.shape[:-1], 3)), {})
    mean, logarithm = attack.search(KEY, (same, indifferent, model), jnp.arange(2))
    np.testing.assert_allclose(mean[:, 1], 0, atol=1e-6)
    np.testing.assert_allclose(logarithm[:, 1], 0, atol=1e-6)
    assert (jnp.sign(mean[:, 0]) == jnp.array([-1, 1])).all() and (jnp.abs(mean[:, 0]) > 0.8).all()
    assert (logarithm[:, 0] < -2).all()


def test_the_entropy_and_the_odds_of_logits_are_those_of_their_shares():
    logits = np.log([[0.2, 0.3, 0.5], [1.0, 1.0, 2.0]])
    np.testing.assert_allclose(is_real(jnp.asarray(logits)), np.log([1.0, 4.0]), atol=1e-6)
    expected = [-sum(p * np.log(p) for p in shares) for shares in ((0.2, 0.3, 0.5), (0.25, 0.25, 0.5))]
    np.testing.assert_allclose(entropy(jnp.asarray(logits)), expected, rtol=1e-5)


def test_the_divergence_of_a_code_is_the_closed_one():
    """KL(N(m, s^2) || N(0, 1)) = (s^2 + m^2 - 1 - log s^2) / 2, by numerical integration of p log(p / q)."""
    mean, deviation = 0.7, 0.4
    t = np.linspace(-5, 5, 200_001)
    p, q = (np.exp(-(((t - m) / s) ** 2) / 2) / (s * np.sqrt(2 * np.pi)) for m, s in ((mean, deviation), (0, 1)))
    whole = np.sum(p * np.log(np.maximum(p, 1e-300) / q)) * (t[1] - t[0])
    assert np.isclose(divergence(jnp.asarray([mean, 2 * np.log(deviation)])), whole, rtol=1e-4)


def test_a_generator_reproduces_public_images():
    attack = build("attack", CALLS["gmi"])
    model, x = attack.generator(KEY, SHAPE), as_unit(load_dataset("npz('public.npz')", "train").x)
    means = jnp.split(model(x), 2, axis=-1)[0]
    assert jnp.mean((decode(model, means, SHAPE) - x) ** 2) < 0.25 * jnp.mean((x - x.mean(0)) ** 2)


def test_public_images_share_no_class_with_those_that_are_reconstructed():
    np.savez("shared.npz", x=blocks().x, y=blocks().y, classes=["p", "b", "q"])
    with pytest.raises(UserError, match=r"gmi: public images show classes of the victim \(b\)"):
        run("gmi(npz('shared.npz'))")
    with pytest.raises(
        UserError, match=r"brep_mi: public images have shape \[28, 28, 1\], those of the victim \[6, 6, 1"
    ):
        run("brep_mi(fashion_mnist_mini)")
    with pytest.raises(
        UserError, match=r"kedmi: public images have shape \[28, 28, 1\], those of the victim \[6, 6, 1"
    ):
        run("kedmi(fashion_mnist_mini)")


def test_distances_are_those_of_a_direct_computation_and_1_for_test_images():
    train, test, judge = blocks(), blocks(30, 1), reading(2)
    centre, nearest = model_inversion.distances(judge, test.x, test.y, train, test)
    for label in range(CLASSES):
        assert np.isclose(centre[test.y == label].mean(), 1) and np.isclose(nearest[test.y == label].mean(), 1)
    own, other = (np.asarray(as_unit(d.x), np.float64).reshape(len(d), -1) for d in (test, train))
    near = [np.sqrt(((other[train.y == y] - x) ** 2).sum(-1)).min() for x, y in zip(own, test.y, strict=True)]
    usual = [np.mean([n for n, y in zip(near, test.y, strict=True) if y == label]) for label in test.y]
    np.testing.assert_allclose(nearest, np.asarray(near) / usual, rtol=1e-5)
    assert np.allclose(model_inversion.distances(judge, train.x, train.y, train, test)[1], 0)  # stolen as they are


def test_where_the_judge_tells_no_images_apart_or_a_class_has_no_test_images_there_is_no_distance():
    train, test, judge = blocks(), blocks(30, 1), reading(2)
    dead = build_model("mlp([4])", SHAPE, CLASSES, jax.random.key(0))
    dead = dead.replace(params=dead.params | jax.tree.map(jnp.zeros_like, dead.net.trainable(dead.params)))
    assert np.isnan(model_inversion.distances(dead, test.x, test.y, train, test)).all()
    others = test.rows(test.y != 0)
    found = np.isnan(model_inversion.distances(judge, test.x, test.y, train, others))
    np.testing.assert_array_equal(found, np.broadcast_to(test.y == 0, found.shape))


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
        ("attack", "gmi(fashion_mnist_mini, steps=-1)", "gmi: steps = -1 must be at least 0"),
        ("attack", "gmi(fashion_mnist_mini, codes=0)", "gmi: codes = 0 must be greater than 0"),
        ("attack", "gmi", "public"),
        ("attack", "brep_mi(fashion_mnist_mini, rounds=-1)", "brep_mi: rounds = -1 must be at least 0"),
        ("attack", "kedmi(fashion_mnist_mini, steps=-1)", "kedmi: steps = -1 must be at least 0"),
        ("attack", "kedmi(fashion_mnist_mini, draws=0)", "kedmi: draws = 0 must be greater than 0"),
        ("attack", "brep_mi(fashion_mnist_mini, growth=1.0)", "brep_mi: growth = 1.0 must be greater than 1"),
    ],
)
def test_wrong_arguments_are_named(kind, text, message):
    with pytest.raises(UserError, match=message):
        build(kind, text)
