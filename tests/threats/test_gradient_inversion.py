"""Images from shared gradients: what is exact is exact, defences hide, and wrong input is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.privacy.gradient_inversion import gradient, label_of, objective
from robustbench_jax.bench import privacy_table, records
from robustbench_jax.cli import main
from robustbench_jax.models import build_model
from robustbench_jax.ops.similarity import psnr, ssim, total_variation
from robustbench_jax.registry import build, discover
from robustbench_jax.threats import gradient_inversion
from robustbench_jax.types import Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)
DATA = oracles.noise_images(6, SHAPE, 4)
SSIM = 0.9565347
CALLS = {"dlg": "dlg(30, 1)", "idlg": "idlg(30, 1)", "inverting_gradients": "inverting_gradients(20)"}
ATTACKS = [CALLS.get(n, n) for n, e in discover("attack").items() if e.facts["threat"] == "gradient_inversion"]


def smooth():
    """Images without edges, which total variation does not pull away from what they are."""
    rows, columns = np.mgrid[0:8, 0:8] / 8.0
    x = np.stack([120 + 60 * np.sin(rows * 3 + i) * np.cos(columns * 2 + i) for i in range(4)])
    return Dataset(x.astype(np.uint8)[..., None], np.arange(4, dtype=np.int32), tuple("abcd"), "smooth")


def model(text="mlp([32])"):
    return build_model(text, SHAPE, 4, KEY)


def inverted(text, budget="gradients(1)", data=DATA, net=None):
    return gradient_inversion.run(KEY, net or model(), data, build("attack", text), build("budget", budget))


@pytest.mark.parametrize("text", ATTACKS)
def test_every_image_gets_a_reconstruction_inside_the_box_and_the_same_for_the_same_key(text):
    one, other = (inverted(text) for _ in range(2))
    x = one.artefacts["x_adv"]
    assert x.shape == (6, *SHAPE) and x.dtype == np.uint8 and np.isfinite(one.arrays["psnr"]).all()
    np.testing.assert_array_equal(x, other.artefacts["x_adv"])


def test_a_dense_first_layer_gives_the_image_away_exactly():
    found = inverted("analytic")
    np.testing.assert_array_equal(found.artefacts["x_adv"], DATA.x)
    assert found.metrics["labels_found"].value == 1 and found.metrics["reconstruction_psnr"].value > 60


def test_optimised_images_come_near():
    assert inverted("idlg(100, 2)").metrics["reconstruction_psnr"].value > 25
    found = inverted("inverting_gradients(steps=300, tv=0.001)", data=smooth()).metrics
    assert found["reconstruction_psnr"].value > 20 and found["reconstruction_ssim"].value > 0.7


def test_the_label_of_one_image_is_where_the_heads_bias_has_its_negative_gradient():
    for x, y in zip(DATA.x / 255.0, DATA.y, strict=True):
        sent = gradient(model(), jnp.asarray(x, jnp.float32)[None], jnp.asarray(y)[None])
        assert int(label_of("idlg", sent)[0]) == y and int(jnp.sum(sent["head/bias"] < 0)) == 1


def test_the_objective_is_least_at_the_images_and_finite_where_gradients_vanish():
    net, x, y = model(), jnp.asarray(DATA.x[:2] / 255.0, jnp.float32), jnp.asarray(DATA.y[:2])
    sent = gradient(net, x, y)
    assert float(objective(net, sent, x, y, 0.0)) < 1e-5 < float(objective(net, sent, 1 - x, y, 0.0))
    nothing = {name: jnp.zeros_like(value) for name, value in sent.items()}
    assert np.isfinite(jax.grad(lambda x: objective(net, nothing, x, y, 0.0))(x)).all()


@pytest.mark.parametrize("budget", ["gradients(1, noise=0.05)", "gradients(1, keep=0.005)"])
def test_what_a_client_does_to_its_gradients_hides_its_images(budget):
    plain, hidden = (inverted("analytic", b).metrics["reconstruction_psnr"].value for b in ("gradients(1)", budget))
    assert hidden < 0.5 * plain


def test_what_is_sent_is_clipped_noisy_and_sparse():
    sent = {"a": jnp.asarray([3.0, 0.1]), "b": jnp.asarray([[4.0, -0.2]])}
    clipped = build("budget", "gradients(1, clip=1.0)").shared(KEY, sent)
    np.testing.assert_allclose(np.sqrt(sum(float(jnp.sum(v**2)) for v in clipped.values())), 1.0, rtol=1e-5)
    sparse = build("budget", "gradients(1, keep=0.5)").shared(KEY, sent)
    assert [v.tolist() for v in sparse.values()] == [[3.0, 0.0], [[4.0, 0.0]]]
    noisy = build("budget", "gradients(1, noise=0.1)").shared(KEY, {"a": jnp.zeros(4000)})["a"]
    assert float(jnp.std(noisy)) == pytest.approx(0.1, rel=0.05)
    np.testing.assert_array_equal(build("budget", "gradients(1)").shared(KEY, sent)["b"], sent["b"])


def test_reconstructions_of_a_batch_are_assigned_to_its_images_whatever_their_order():
    x = np.asarray(DATA.x / 255.0)
    np.testing.assert_array_equal(gradient_inversion.assigned(x[[2, 0, 1]], x[:3]), [1, 2, 0])
    found = inverted("inverting_gradients(5)", "gradients(4)")
    assert len(found.arrays["psnr"]) == 4  # two of the six images fill no batch


def test_similarities_are_those_of_scikit_image():
    """scikit-image 0.26: structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1), of which only windows inside the image are averaged here.
    """
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(16, 16, 1)).astype(np.float32)
    y = np.clip(x + rng.normal(0, 0.1, x.shape), 0, 1).astype(np.float32)
    assert float(ssim(jnp.asarray(x), jnp.asarray(x))) == pytest.approx(1.0, abs=1e-5)
    assert float(ssim(jnp.asarray(x), jnp.asarray(y))) == pytest.approx(SSIM, abs=1e-4)
    assert float(psnr(jnp.asarray(x), jnp.asarray(y))) == pytest.approx(
        10 * np.log10(1 / np.mean((x - y) ** 2)), rel=1e-5
    )
    assert float(total_variation(jnp.asarray([[[0.0], [1.0]], [[0.5], [0.5]]]))) == pytest.approx(0.5 + 0.5)


def test_the_verb_keeps_the_pictures_and_the_table_has_a_row(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", "mlp([16])", "--recipe", "sgd(epochs=1)", "--dataset", "fashion_mnist_mini"]
    arguments += [
        "--attack",
        "analytic",
        "--budget",
        "gradients(1)",
        "--examples",
        "3",
        "--out",
        "out",
        "--save-images",
    ]
    assert main(["privacy", *arguments]) == 0
    found, _ = records.read_all(tmp_path / "out")
    assert (tmp_path / "out" / "images" / f"{found[0].id}.png").read_bytes().startswith(b"\x89PNG")
    page = privacy_table.sheets(found)[0]
    assert page.rows[0][0].startswith("analytic · gradients(1)") and page.rows[0][-1] == "3"


@pytest.mark.parametrize(
    "attack, budget, net, message",
    [
        ("analytic", "gradients(2)", "mlp([8])", "'analytic' is for batches of at most 1"),
        ("analytic", "gradients(1)", "cnn", "models whose first layer is dense"),
        ("dlg", "gradients(9)", "mlp([8])", "gradients(9): there are 6 images"),
    ],
)
def test_what_does_not_fit_is_refused(attack, budget, net, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        inverted(attack, budget, net=model(net))


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("budget", "gradients(0)", "gradients: batch = 0 must be at least 1"),
        ("budget", "gradients(1, keep=0.0)", "keep = 0.0 must be above 0"),
        ("budget", "gradients(1, noise=-1.0)", "noise = -1.0 must be at least 0"),
        ("attack", "dlg(steps=0)", "dlg: steps = 0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(kind, text, message):
    with pytest.raises(UserError, match=message):
        build(kind, text)
