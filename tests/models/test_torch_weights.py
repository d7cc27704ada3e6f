"""torch_weights: what PyTorch computes with the same arrays, and errors that name everything that does not fit."""

import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from robustbench_jax.cli import main
from robustbench_jax.models import net, torch_weights
from robustbench_jax.registry import build, canonical
from robustbench_jax.types import UserError
from tests.models.made import array, in_sequence, torch_arrays, zipped

# The logits 0 to 2 of the second of two images (default_rng(0).random) that PyTorch 2.13 computes in the modules of
# RobustBench at 78fcc9e, torchvision 0.29.2 (resnet18, resnet50) and timm 1.0.31, with the arrays of `torch_arrays`.
LOGITS = {
    "wide_resnet(depth=16, width=2)": (32, (-0.63324, 0.51873, 0.07367)),
    "wide_resnet_swish(depth=16, width=2)": (32, (-0.22001, 0.26001, -0.01127)),
    "preact_resnet18": (32, (-1.92525, 0.40903, 0.22666)),
    "preact_resnet18_fast": (32, (-2.40743, -0.47037, 1.93846)),
    "preact_resnet18_swish": (32, (-0.24613, -0.05896, -0.55861)),
    "resnet18_cifar": (32, (-1.2607, -0.24762, -0.3962)),
    "resnet50_cifar": (32, (-2.6645, -0.52832, 1.12461)),
    "resnet18": (64, (0.39962, 0.87412, -1.40727)),
    "resnet50": (64, (-0.45783, -2.85313, 3.4126)),
    "vit_small(patch=16)": (64, (1.57688, 1.27841, -1.2019)),
}


def weights(text: str):
    return build("pretrained", text).load()


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        weights(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path):
    """Writes arrays to m.pt and returns its path."""

    def call(arrays, form=zipped):
        (tmp_path / "m.pt").write_bytes(form(arrays))
        return str(tmp_path / "m.pt")

    return call


@pytest.mark.parametrize("arch", LOGITS)
def test_the_logits_are_those_of_the_published_pytorch_version(arch, tmp_path):
    side, expected = LOGITS[arch]
    arrays = torch_arrays(arch, (side, side, 3))
    if arch.endswith("_cifar"):  # there the layers have other names than in torchvision
        names = {k: k.replace("downsample", "shortcut").replace("fc.", "linear.") for k in arrays}
        arrays = {names[k]: array(names[k], v.shape) for k, v in arrays.items()}
    save_file(arrays, tmp_path / "m.safetensors")
    images = np.random.default_rng(0).random((2, side, side, 3)).astype(np.float32)
    shape = f", shape=[{side}, {side}, 3]"
    classifier, description = weights(f'torch_weights("{tmp_path}/m.safetensors", arch="{arch}"{shape})')
    logits = jax.jit(classifier.net)(classifier.params, images)
    np.testing.assert_allclose(logits[1, :3], expected, atol=2e-4)
    assert (description["architecture"], description["shape"], description["classes"]) == (arch, [side, side, 3], 10)


@pytest.fixture
def small(file):
    """wide_resnet(10, 1) as a state dict of four classes and one channel, and its path."""
    arrays = torch_arrays("wide_resnet(10, 1)", (32, 32, 1), 4)
    return arrays, lambda change: file(change)


def test_classes_and_channels_follow_from_the_weights(small):
    arrays, write = small
    classifier, description = weights(f'torch_weights("{write(arrays)}", arch="wide_resnet(10, 1)")')
    assert (description["shape"], description["classes"]) == ([32, 32, 1], 4)
    assert net.count(classifier) == sum(v.size for k, v in arrays.items() if "running" not in k)


def test_the_side_of_a_vision_transformer_follows_from_its_positions(file):
    path = file(torch_arrays("vit_small(patch=8)", (24, 24, 3)))
    assert weights(f'torch_weights("{path}", arch="vit_small(patch=8)")')[1]["shape"] == [24, 24, 3]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a: {f"module.{k}": v for k, v in a.items()},
        lambda a: {f"module.model.{k}": v for k, v in a.items()},
        lambda a: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in a.items()}},
        lambda a: {"net": a, "optimizer": {"state": {}}},
        lambda a: {"model": {"state_dict": a}},
        lambda a: a | {"bn1.num_batches_tracked": np.array(5, np.int64)},
        lambda a: {k: v.astype(np.float64) for k, v in a.items()},
    ],
    ids=["module.", "module.model.", "state_dict", "net", "model/state_dict", "counter", "float64"],
)
def test_wrappers_make_no_difference(wrap, small, file):
    arrays, _ = small
    found = torch_weights.open_weights(file(wrap(arrays), in_sequence), "wide_resnet(10, 1)").arrays
    assert list(found) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_block_that_the_published_network_does_not_use_is_passed_over(small):
    arrays, write = small
    idle = {f"sub_{k}": v for k, v in arrays.items() if k.startswith("block1.")}
    told = weights(f'torch_weights("{write(arrays | idle)}", arch="wide_resnet(10, 1)")')[1]
    assert idle and told == weights(f'torch_weights("{write(arrays)}", arch="wide_resnet(10, 1)")')[1]


def test_everything_that_does_not_fit_is_named_at_once(small):
    arrays, write = small
    spoiled = {k: v for k, v in arrays.items() if k not in ("bn1.bias", "block2.layer.0.conv1.weight")}
    spoiled["fc.weight"] = spoiled["fc.weight"][:, :5]
    spoiled |= {"extra.weight": np.ones(3, np.float32), "block4.layer.0.bn1.bias": np.ones(2, np.float32)}
    spoiled["fc.bias"] = np.array([0, np.nan, 0, 0], np.float32)
    said = refusal(f'torch_weights("{write(spoiled)}", arch="wide_resnet(10, 1)")')
    assert "m.pt does not fit wide_resnet(10, 1) for images [32, 32, 1]: " in said
    parts = dict(part.split(": ", 1) for part in said.partition("]: ")[2].split("; "))
    assert {k: sorted(re.findall("'(.*?)'", v)) for k, v in parts.items()} == {
        "missing": ["block2.layer.0.conv1.weight", "bn1.bias"],
        "unused": ["block4.layer.0.bn1.bias", "extra.weight"],
        "of another shape": ["fc.weight"],
        "not finite": ["fc.bias"],
    }
    assert "'fc.weight' is [4, 5], not [4, 64]" in said


@pytest.mark.parametrize(
    "arch, said",
    [
        ("renset20", "no model 'renset20'; did you mean 'resnet20'?"),
        ("wide_resnet(11, 1)", "wide_resnet: depth = 11 must be 6 n + 4; the nearest is 10"),
        ("wide_resnet(16, 1)", "missing: 'block1.layer.1."),
        ("resnet20", "missing: 'layer1.0.conv1.weight'"),
    ],
)
def test_a_wrong_architecture_is_named_with_what_is_right(arch, said, small):
    arrays, write = small
    assert said in refusal(f'torch_weights("{write(arrays)}", arch="{arch}")')


@pytest.mark.parametrize(
    "argument, said",
    [
        ("mean=[0.1, 0.2]", "mean = [0.1, 0.2] must be one number or one for each of 1 channels"),
        ("std=[0]", "std = [0] must be greater than 0"),
        ('mean=["a"]', "must be one number"),
        ("mean=0.5", "mean = 0.5 must be a tuple"),
        ("shape=[32, 32]", "shape = [32, 32] must be [H, W, C]"),
        ("shape=[32, 32, 3]", "'conv1.weight' is [16, 1, 3, 3], not [16, 3, 3, 3]"),
        ("shape=[4, 4, 1]", "at least 8x8"),
        ('entry="ema"', "has no state dict 'ema'"),
    ],
)
def test_wrong_arguments_are_named(argument, said, small):
    arrays, write = small
    assert said in refusal(f'torch_weights("{write(arrays)}", arch="wide_resnet(10, 1)", {argument})')


def _affine_map(file, extra=None, arguments=""):
    """A dense layer on images of 2x3x2, with its matrix and the classifier."""
    w, b = array("w", (4, 12)), array("b", (4,))
    path = file({"0.weight": w, "0.bias": b} | (extra or {}))
    text = f'torch_weights("{path}", arch="mlp(widths=[])", shape=[2, 3, 2]{arguments})'
    return w, b, text


def test_a_dense_layer_sees_its_pixels_channels_first(file):
    w, b, text = _affine_map(file)
    x = np.random.default_rng(0).random((2, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(weights(text)[0](x), w @ x.transpose(2, 0, 1).ravel() + b, rtol=1e-5)


def test_a_dense_layer_after_convolutions_sees_their_channels_first(file):
    conv, w, b = array("c", (5, 2, 2, 2)), array("w", (4, 5 * 3 * 4)), array("b", (4,))
    arrays = {"0.weight": conv, "0.bias": np.full(5, 3, np.float32), "3.weight": w, "3.bias": b}
    arch = "cnn(convolutions=[[5, 2, 1]], dense=[], padding=0)"
    classifier, _ = weights(f'torch_weights("{file(arrays)}", arch="{arch}", shape=[4, 5, 2])')
    x = np.random.default_rng(0).random((4, 5, 2)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(0, 1))  # [3, 4, channels, 2, 2]
    features = np.maximum(np.einsum("hwcij,ocij->ohw", windows, conv) + 3, 0)
    np.testing.assert_allclose(classifier(x), w @ features.ravel() + b, rtol=1e-4)


def test_layers_with_numbers_for_names_keep_their_order_in_safetensors(tmp_path):
    numbers = [0, 2, 4, 6, 8, 10, 12]
    arrays = {f"{n}.weight": array(f"{n}", (9, 9)) for n in numbers} | {f"{n}.bias": array("", (9,)) for n in numbers}
    save_file(arrays, tmp_path / "m.safetensors")
    arch = "mlp(widths=[9, 9, 9, 9, 9, 9])"
    classifier, _ = weights(f'torch_weights("{tmp_path}/m.safetensors", arch="{arch}", shape=[3, 3, 1])')
    x = np.random.default_rng(0).random((3, 3, 1)).astype(np.float32)
    out = x.ravel()
    for n in numbers:
        out = arrays[f"{n}.weight"] @ (out if n == 0 else np.maximum(out, 0)) + arrays[f"{n}.bias"]
    np.testing.assert_allclose(classifier(x), out, rtol=1e-4, atol=1e-6)


def test_the_mean_and_deviation_come_first(file):
    w, b, text = _affine_map(file, arguments=", mean=[0.5, 0.25], std=[0.5, 2]")
    x = np.random.default_rng(0).random((2, 3, 2)).astype(np.float32)
    scaled = ((x - [0.5, 0.25]) / [0.5, 2]).transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(weights(text)[0](x), w @ scaled + b, rtol=1e-4)


def test_a_mean_in_the_file_counts_and_another_one_is_refused(file):
    own = {"mu": np.array([0.5, 0.25], np.float32).reshape(1, 2, 1, 1), "sigma": np.full((1, 2, 1, 1), 2, np.float32)}
    _, _, text = _affine_map(file, own)
    params = weights(text)[0].params
    np.testing.assert_array_equal(params["normalise/mean"], [0.5, 0.25])
    np.testing.assert_array_equal(params["normalise/std"], [2, 2])
    weights(text.replace("[2, 3, 2]", "[2, 3, 2], mean=[0.5, 0.25]"))
    said = refusal(text.replace("[2, 3, 2]", "[2, 3, 2], mean=[0.4, 0.25]"))
    assert "mean = [0.4, 0.25] is not that of" in said and "[0.5, 0.25]" in said


@pytest.mark.parametrize(
    "normalise, network",
    [("module.normalizer.new_{}", "module.model."), ("normalizer.{}", "model."), ("0.{}", "1."), ("{}", "net.")],
)
def test_a_normalising_layer_around_the_network_counts(normalise, network, small, file):
    arrays, _ = small
    layer = {normalise.format(k): np.full((1, 1, 1), v, np.float32) for k, v in (("mean", 0.5), ("std", 0.25))}
    path = file(layer | {f"{network}{k}": v for k, v in arrays.items()})
    params = weights(f'torch_weights("{path}", arch="wide_resnet(10, 1)")')[0].params
    assert (params["normalise/mean"].item(), params["normalise/std"].item()) == (0.5, 0.25)


def test_the_call_string_writes_out_what_was_left_out():
    short = canonical("pretrained", 'torch_weights("m.pt", arch="resnet20", mean=[0.5])')
    assert (
        short == ("torch_weights(path='m.pt', arch='resnet20', mean=[0.5], std=None, shape=None, entry=None)")
        and canonical("pretrained", short) == short
    )


def test_the_command_line_attacks_it(file, tmp_path, capsys):
    w, b, text = _affine_map(file)
    x = np.random.default_rng(0).integers(0, 256, (6, 2, 3, 2), np.uint8)
    y = np.argmax((x / 255).transpose(0, 3, 1, 2).reshape(6, -1) @ w.T + b, -1)
    np.savez(tmp_path / "d.npz", x=x, y=y, classes=list("abcd"))
    words = ("--model", text, "--dataset", f'npz("{tmp_path}/d.npz")', "--attack", "fgsm", "--budget", "linf(0.01)")
    assert main(["attack", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["clean_accuracy"]["value"] == 1
    assert main(["attack", *words[:1], text.replace("mlp", "mpl"), *words[2:]]) != 0
    assert "no model 'mpl'; did you mean 'mlp'?" in capsys.readouterr().err
