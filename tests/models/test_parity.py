"""Published weights: their published accuracy, and the logits that PyTorch computes from them.

The files are not part of the project. They are looked for in the directory ROBUSTBENCH_JAX_SHARED, or in shared/data
beside the repository; without them these tests are skipped.
"""

import os
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import build

BESIDE = Path(__file__).parents[3] / "shared" / "data"
SHARED = Path(os.environ.get("ROBUSTBENCH_JAX_SHARED", BESIDE))
RESNET = ("resnet20_cifar10.th", "resnet20", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CNN = ("cifar10_cnn_a_mix.pt", "cnn_a", (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616))
MODELS = pytest.mark.parametrize("model", [RESNET, CNN], ids=["resnet20", "cnn_a"])

pytestmark = pytest.mark.skipif(
    not all((SHARED / name).is_file() for name in (RESNET[0], CNN[0], "cifar10_test200.npz")),
    reason="the published weights are not here; set ROBUSTBENCH_JAX_SHARED",
)


@cache
def images() -> tuple[np.ndarray, np.ndarray]:
    with np.load(SHARED / "cifar10_test200.npz") as file:
        return file["x_test"], file["y_test"].reshape(-1)


def text(model) -> str:
    name, arch, mean, std = model
    return f'torch_weights("{SHARED / name}", arch="{arch}", mean={list(mean)}, std={list(std)})'


@cache
def logits(model) -> np.ndarray:
    classifier, _ = build("pretrained", text(model)).load()
    return np.asarray(jax.jit(classifier.net)(classifier.params, as_unit(images()[0])))


@pytest.mark.parametrize("model, correct", [(RESNET, 185), (CNN, 158)], ids=["resnet20", "cnn_a"])
def test_the_clean_accuracy_is_as_published(model, correct):
    """Of 200 lossless CIFAR-10 test images: resnet20 92.5% (91.73% on all of them); cnn_a 79.0%, as PyTorch has it."""
    assert (logits(model).argmax(-1) == images()[1]).sum() == correct


@MODELS
def test_the_logits_are_those_of_pytorch(model):
    torch = pytest.importorskip("torch")
    file = torch.load(SHARED / model[0], map_location="cpu", weights_only=True)
    arrays = {k.removeprefix("module."): v for k, v in file.get("state_dict", file).items()}
    x = torch.from_numpy(as_unit(images()[0]).transpose(0, 3, 1, 2).copy())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in model[2:])
    forward = {"resnet20": resnet20, "cnn_a": cnn_a}[model[1]]
    with torch.no_grad():
        expected = forward(torch.nn.functional, arrays, (x - mean) / std).numpy()
    np.testing.assert_allclose(logits(model), expected, atol=1e-4, rtol=0)


def resnet20(F, arrays, x):
    """The forward pass of the published CIFAR ResNet, from its arrays."""

    def conv_norm(x, conv, norm, stride=1):
        x = F.conv2d(x, arrays[f"{conv}.weight"], stride=stride, padding=1)
        return F.batch_norm(x, *(arrays[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))

    x = F.relu(conv_norm(x, "conv1", "bn1"))
    for stage in (1, 2, 3):
        for index in range(3):
            at, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            out = F.relu(conv_norm(x, f"{at}.conv1", f"{at}.bn1", stride))
            out = conv_norm(out, f"{at}.conv2", f"{at}.bn2")
            more = (out.shape[1] - x.shape[1]) // 2
            x = F.relu(out + F.pad(x[..., ::stride, ::stride], (0, 0, 0, 0, more, more)))
    return F.linear(x.mean((2, 3)), arrays["linear.weight"], arrays["linear.bias"])


def cnn_a(F, arrays, x):
    for layer in ("0", "2"):
        x = F.relu(F.conv2d(x, arrays[f"{layer}.weight"], arrays[f"{layer}.bias"], stride=2, padding=1))
    x = F.relu(F.linear(x.flatten(1), arrays["5.weight"], arrays["5.bias"]))
    return F.linear(x, arrays["7.weight"], arrays["7.bias"])
