"""Architectures: their published numbers of parameters, their outputs, and the images that they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.models import build_model
from robustbench_jax.models.activations import ACTIVATIONS, STEEPEST
from robustbench_jax.models.features import layer_inputs
from robustbench_jax.models.net import count
from robustbench_jax.registry import canonical, discover
from robustbench_jax.types import UserError

KEY, TANH = jax.random.key(0), "activation='tanh'"
# Trained parameters. resnet20 to 56: README of akamaster/pytorch_resnet_cifar10 (0.27M to 0.85M) and its layers added
# up; wide_resnet: Zagoruyko & Komodakis, table 4 (36.5M); resnet18, resnet50: torchvision's documentation; vit_small:
# timm's results table (22.05M); cnn_a: 16 x 48 + 16 + 32 x 256 + 32 + 2048 x 100 + 100 + 1010.
PARAMETERS = {
    "resnet20": (32, 10, 269_722),
    "resnet32": (32, 10, 464_154),
    "resnet44": (32, 10, 658_586),
    "resnet56": (32, 10, 853_018),
    "preact_resnet18": (32, 10, 11_172_170),
    "preact_resnet18_fast": (32, 10, 11_172_170 - 2 * 512),
    "wide_resnet(28, 10)": (32, 10, 36_479_194),
    "wide_resnet(34, 10)": (32, 10, 46_160_474),
    "wide_resnet_swish(28, 10)": (32, 10, 36_479_194),
    "resnet18": (224, 1000, 11_689_512),
    "resnet50": (224, 1000, 25_557_032),
    "resnet18_cifar": (32, 10, 11_173_962),
    "resnet50_cifar": (32, 10, 23_520_842),
    "vit_small(16)": (224, 1000, 22_050_664),
    "cnn_a": (32, 10, 768 + 16 + 8192 + 32 + 204_800 + 100 + 1010),
    "mlp([256, 256])": (32, 10, 3072 * 256 + 256 + 256 * 256 + 256 + 2570),
}
SMALL = {
    "resnet18": 64,
    "resnet50": 64,
    "vit_small": 32,
}


def described(arch: str, shape: tuple[int, ...], classes: int, batch: tuple[int, ...] = ()):
    """The model with shapes for arrays, and the shape of its logits for a batch."""
    made = []

    def run(x):
        made.append(build_model(arch, shape, classes, jax.random.key(0)))
        return made[0].params, made[0].net(made[0].params, x)

    params, logits = jax.eval_shape(run, jax.ShapeDtypeStruct((*batch, *shape), np.float32))
    return made[0].replace(params=params), logits.shape


@pytest.mark.parametrize("arch", PARAMETERS)
def test_it_has_as_many_parameters_as_published(arch):
    side, classes, parameters = PARAMETERS[arch]
    model, logits = described(arch, (side, side, 3), classes)
    assert count(model) == parameters
    assert logits == (classes,)


@pytest.mark.parametrize("arch", [name for name, e in discover("model").items() if "gives_images" not in e.facts])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "batch"])
def test_every_architecture_gives_one_row_of_logits_an_image(arch, batch):
    side = SMALL.get(arch, 32)
    _, logits = described(arch, (side, side, 1), 7, batch)
    assert logits == (*batch, 7)


@pytest.mark.parametrize("arch", sorted(set(discover("model")) - {"mlp", "lipschitz_mlp", "denoiser_cnn"}))
@pytest.mark.parametrize("shape", [(3, 3, 3), (32, 32), (1, 32, 3)], ids=str)
def test_images_that_are_too_small_or_flat_are_refused(arch, shape):
    if arch == "vit_small" and len(shape) == 3:
        arch = "vit_small(patch=16)"
    with pytest.raises(UserError) as caught:
        described(arch, shape, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arch, said",
    [
        ("wide_resnet(29, 10)", "depth = 29 must be 6 n + 4; the nearest is 28"),
        ("wide_resnet_swish(29, 10)", "depth = 29 must be 6 n + 4; the nearest is 28"),
        ("wide_resnet(28, 0)", "width = 0 must be at least 1"),
        ("wide_resnet_swish(28, 0)", "width = 0 must be at least 1"),
        ("vit_small(15)", "patch = 15 must divide 32x32; the nearest that does is 16"),
        ("renset20", "no model 'renset20'; did you mean 'resnet20'?"),
        ("resnet20(3)", "resnet20"),
        ("mlp([0])", "widths"),
        ("mlp(activation='tahn')", "mlp: activation = 'tahn'; did you mean 'tanh'?"),
        ("cnn(activation='rleu')", "cnn: activation = 'rleu'; did you mean 'relu'?"),
    ],
)
def test_wrong_arguments_are_named(arch, said):
    with pytest.raises(UserError) as caught:
        described(arch, (32, 32, 3), 10)
    assert said in str(caught.value)


@pytest.mark.parametrize("given, taken", [(1, 3), (3, 1)])
def test_images_of_other_channels_are_refused_where_broadcasting_would_take_them(given, taken):
    model = build_model("resnet20", (32, 32, taken), 10, jax.random.key(0))
    with pytest.raises(UserError, match=f"the model takes images of {taken} channels, not of {given}"):
        model(np.zeros((32, 32, given), np.float32))


@pytest.mark.parametrize(
    "arch", ["cnn_a", "resnet20", "wide_resnet(10, 1)", "wide_resnet_swish(10, 1)", "resnet18_cifar"]
)
def test_two_models_of_one_architecture_have_equal_nets(arch):
    (one, _), (two, _) = (described(arch, (16, 16, 3), 10) for _ in range(2))
    assert one.net == two.net and hash(one.net) == hash(two.net)


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_another_activation_is_another_network_and_relu_is_what_it_was_before_there_were_others(arch):
    """The identities of networks with ReLU are older than the argument."""
    plain, relu, tanh = (build_model(f"{arch}({a})", (8, 8, 1), 3, KEY) for a in ("", "activation='relu'", TANH))
    assert "activation" not in canonical("model", f"{arch}(activation='relu')")
    assert canonical("model", f"{arch}({TANH})").endswith("activation='tanh')")
    assert plain.net == relu.net != tanh.net
    x = np.random.default_rng(0).uniform(size=(8, 8, 1)).astype(np.float32)
    first, second = layer_inputs(relu, x)[1], layer_inputs(tanh, x)[1]
    np.testing.assert_allclose(np.maximum(np.arctanh(second), 0), first, atol=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_slope_of_an_activation_is_larger_than_said_and_some_is_as_large(name):
    with jax.enable_x64(True):
        slopes = np.abs(jax.vmap(jax.grad(ACTIVATIONS[name]))(jnp.linspace(-30, 30, 60_001)))
    assert 0.9999 * STEEPEST[name] < slopes.max() <= STEEPEST[name]


def test_two_seeds_give_equal_nets_and_other_weights_and_one_seed_the_same():
    one, two, again = (build_model("mlp([4])", (2, 2, 1), 3, jax.random.key(seed)) for seed in (0, 1, 0))
    assert one.net == two.net and hash(one.net) == hash(two.net)
    assert one.net != build_model("mlp([4, 4])", (2, 2, 1), 3, jax.random.key(0)).net
    assert not np.array_equal(one.params["head/kernel"], two.params["head/kernel"])
    for name, value in one.params.items():
        np.testing.assert_array_equal(value, again.params[name])
