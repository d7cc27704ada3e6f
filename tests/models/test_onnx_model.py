"""onnx("m.onnx") as a classifier: layouts, weights as parameters, gradients, and networks of others."""

import contextlib
import io
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.bench.cells import canonical_model
from robustbench_jax.models.onnx_model import Onnx
from robustbench_jax.registry import build
from robustbench_jax.types import UserError
from tests.models.onnx_made import TensorProto, by_runtime, model, node, onnx, save, small_cnn

BESIDE = Path(__file__).parents[3] / "shared" / "data"
SHARED = Path(os.environ.get("ROBUSTBENCH_JAX_SHARED", BESIDE))
MNISTFC = SHARED / "vnncomp2021_mnistfc" / "mnist-net_256x2.onnx"


def load(path, **options):
    return Onnx(str(path), **options).load()


def image(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def flattened(sizes, directory, **options):
    """A file whose output are its input's values in the file's order."""
    return save(model([node("Reshape", "x s")], sizes, {"s": np.array([1, -1])}, **options), directory)


def test_a_call_string_builds_it(tmp_path):
    path = save(small_cnn(), tmp_path)
    classifier, description = build("pretrained", f'onnx("{path}")').load()
    assert classifier(image(8, 8, 3)).shape == (10,)
    assert (description["shape"], description["classes"], description["opset"]) == ([8, 8, 3], 10, 13)
    assert canonical_model(f'onnx("{path}")').startswith(f"onnx(path='{path}', layout='auto'")


def test_it_computes_what_onnxruntime_does(tmp_path):
    path, x = save(small_cnn(), tmp_path), image(8, 8, 3)
    expected = by_runtime(path, x.transpose(2, 0, 1)[None])[0]
    classifier, _ = load(path)
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(classifier, x), expected, atol=1e-4)
    batched = jax.vmap(classifier)(np.stack([x, x[::-1]]))
    np.testing.assert_allclose(batched[0], expected, atol=1e-4)


def test_shape_arithmetic_is_gone_from_the_program(tmp_path):
    classifier, _ = load(save(small_cnn(), tmp_path))
    ops = [n.op for n in classifier.net.program.nodes]
    assert ops == ["Conv", "BatchNormalization", "Relu", "MaxPool", "Reshape", "Gemm"]


def test_two_files_of_one_graph_share_one_compiled_program(tmp_path):
    first, _ = load(save(small_cnn(0), tmp_path, "a.onnx"))
    renamed = small_cnn(1)
    for n in renamed.graph.node:
        n.name = f"other_{n.op_type}"
        n.input[:] = [f"{i}_2" if i != "x" else i for i in n.input]
        n.output[:] = [f"{o}_2" if o != "y" else o for o in n.output]
    for t in renamed.graph.initializer:
        t.name += "_2"
    second, _ = load(save(renamed, tmp_path, "b.onnx"))
    traced = []

    @jax.jit
    def logits(model, x):
        traced.append(model)
        return model(x)

    assert first.net == second.net and hash(first.net) == hash(second.net)
    assert not np.allclose(logits(first, image(8, 8, 3)), logits(second, image(8, 8, 3)))
    assert len(traced) == 1


def test_files_of_different_graphs_are_different_programs(tmp_path):
    first, _ = load(save(small_cnn(), tmp_path, "a.onnx"))
    other = small_cnn()
    other.graph.node[3].attribute[0].ints[:] = [1, 1]
    other.graph.node[3].op_type = "AveragePool"
    assert first.net != load(save(other, tmp_path, "b.onnx"))[0].net


def test_gradients_reach_the_image_and_the_weights(tmp_path):
    classifier, _ = load(save(small_cnn(), tmp_path))
    x, direction = image(8, 8, 3), image(8, 8, 3, seed=1) - 0.5

    @jax.jit
    def loss(params, x):
        return classifier.replace(params=params)(x)[3]

    weights, gradient = jax.jit(jax.grad(loss, (0, 1)))(classifier.params, x)
    slope = (loss(classifier.params, x + 1e-3 * direction) - loss(classifier.params, x - 1e-3 * direction)) / 2e-3
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-2)
    assert all(np.any(np.asarray(v) != 0) for v in weights.values())


@pytest.mark.parametrize(
    "sizes, layout, shape, first",
    [
        (("N", 3, 4, 5), "auto", (4, 5, 3), True),
        ((1, 3, 4, 5), "auto", (4, 5, 3), True),
        ((8, 3, 4, 5), "auto", (4, 5, 3), True),
        (("N", 4, 5, 3), "auto", (4, 5, 3), True),
        (("N", 5, 6, 3), "auto", (5, 6, 3), False),
        (("N", 4, 5, 3), "nhwc", (4, 5, 3), False),
        ((1, 1, 4, 5), "auto", (4, 5, 1), True),
        ((3, 4, 5), "auto", (4, 5, 3), True),
        ((5, 6, 3), "auto", (5, 6, 3), False),
        (("N", 4, 5), "auto", (4, 5, 1), True),
        ((1, 4, 5), "auto", (4, 5, 1), True),
        ((5, 5), "auto", (5, 5, 1), True),
        (("N", 48), "auto", (4, 4, 3), True),
        (("N", 48), "nhwc", (4, 4, 3), False),
        ((48,), "flat", (4, 4, 3), True),
        ((1, 16), "auto", (4, 4, 1), True),
        ((1, 16, 1), "auto", (4, 4, 1), True),
        ((1, 1, 1, 16), "auto", (4, 4, 1), True),
        ((1, 16, 1, 1), "auto", (2, 8, 1), True),
    ],
)
def test_the_layout_is_found_by_the_sizes_of_the_input(tmp_path, sizes, layout, shape, first):
    if sizes == ("N", 4, 5, 3) and layout == "auto":
        shape = (5, 3, 4)  # four channels: only layout= can tell
    classifier, _ = load(flattened(sizes, tmp_path), layout=layout)
    x = image(*shape)
    expected = x.transpose(2, 0, 1) if first else x
    np.testing.assert_array_equal(classifier(x), expected.ravel())


def test_an_image_of_another_shape_is_told_what_the_file_takes(tmp_path):
    classifier, _ = load(save(small_cnn(), tmp_path))
    with pytest.raises(UserError, match=r"takes images \[8, 8, 3\], as \[1, 3, 8, 8\]; got an image \[28, 28, 1\]"):
        classifier(image(28, 28, 1))
    classifier, _ = load(flattened((1, 16), tmp_path))
    with pytest.raises(UserError, match=r"16 pixel values, as \[1, 16\]; got an image \[28, 28, 1\]"):
        classifier(image(28, 28, 1))


def test_open_sizes_need_a_shape(tmp_path):
    nodes = [node("GlobalAveragePool", "x", "p"), node("Flatten", "p")]
    path = save(model(nodes, ("N", 3, "h", "w")), tmp_path)
    with pytest.raises(UserError, match=r"input 'x' \[\?, 3, \?, \?\] leaves sizes open: give shape="):
        load(path)
    x = image(6, 7, 3)
    np.testing.assert_allclose(load(path, shape=(6, 7, 3))[0](x), x.mean((0, 1)), rtol=1e-5)
    with pytest.raises(UserError, match="shape"):
        load(path, shape=(6, 7, 1))


@pytest.mark.parametrize(
    "options, told",
    [
        ({"layout": "nhcw"}, "did you mean 'nh"),
        ({"shape": (4, 4)}, "H, W, C"),
        ({"shape": (4, 4, 3)}, "not shape"),
        ({"mean": (0.5, 0.5)}, "one for each of 3 channels"),
        ({"std": (0,)}, "greater than 0"),
        ({"std": ("a",)}, "must be one number"),
        ({"output": "z"}, "no value 'z'"),
    ],
)
def test_wrong_arguments_are_user_errors(tmp_path, options, told):
    path = save(small_cnn(), tmp_path)
    with pytest.raises(UserError, match=told):
        load(path, **options)


def test_normalisation_comes_first(tmp_path):
    path, x = flattened((1, 3, 4, 4), tmp_path), image(4, 4, 3)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = ((x - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(load(path, mean=mean, std=std)[0](x), expected, rtol=1e-6)
    np.testing.assert_allclose(load(path, std=(0.5,))[0](x), 2 * x.transpose(2, 0, 1).ravel(), rtol=1e-6)


def test_of_several_outputs_one_is_chosen_by_name_and_any_value_may_be(tmp_path):
    nodes = [node("Flatten", "x", "f"), node("Neg", "f", "a"), node("Softmax", "f", "b")]
    path, x = save(model(nodes, (1, 1, 2, 2), output=["a", "b"]), tmp_path), image(2, 2, 1)
    with pytest.raises(UserError, match='2 outputs; choose one: output="a" or b'):
        load(path)
    np.testing.assert_array_equal(load(path, output="a")[0](x), -x.ravel())
    np.testing.assert_array_equal(load(path, output="f")[0](x), x.ravel())


def test_what_is_no_classifier_of_images_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"'y' is \[1, 1, 2, 2\] for one image"):
        load(save(model([node("Relu", "x")], (1, 1, 2, 2)), tmp_path))
    with pytest.raises(UserError, match="takes uint8"):
        load(save(model([node("Flatten", "x")], (1, 1, 2, 2), kind=TensorProto.UINT8), tmp_path))
    with pytest.raises(UserError, match="no image"):
        load(save(model([node("Flatten", "x")], (1, 1, 2, 2, 2)), tmp_path))
    with pytest.raises(UserError, match="does not depend on the image"):
        load(save(model([node("Mul", "x x", "z"), node("Shape", "z")], (1, 4)), tmp_path))
    two = model([node("Add", "x x2")], (1, 4))
    two.graph.input.append(onnx.helper.make_tensor_value_info("x2", TensorProto.FLOAT, (1, 4)))
    with pytest.raises(UserError, match="has one input; 'y' depends on 2: 'x', 'x2'"):
        load(save(two, tmp_path))


def test_initialisers_among_the_inputs_are_weights_as_in_old_files(tmp_path):
    old = small_cnn()
    for t in old.graph.initializer:
        old.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    assert load(save(old, tmp_path))[0].net == load(save(small_cnn(), tmp_path))[0].net


def test_a_clipped_image_keeps_its_gradient_at_black_and_white(tmp_path):
    nodes = [node("Clip", "x low high", "c"), node("Flatten", "c")]
    path = save(model(nodes, (1, 1, 2, 1), {"low": np.float32(0), "high": np.float32(1)}), tmp_path)
    classifier, _ = load(path)
    gradient = jax.grad(lambda x: classifier(x).sum())(jnp.array([0.0, 1.0]).reshape(2, 1, 1))
    np.testing.assert_array_equal(gradient.ravel(), [1, 1])


def test_pgd_breaks_a_linear_network_exactly_where_its_margin_says(tmp_path):
    from robustbench_jax.ops.drive import drive

    random = np.random.default_rng(0)
    w, x = random.normal(size=(4, 2)).astype(np.float32), random.uniform(0.3, 0.7, (32, 2, 2, 1)).astype(np.float32)
    nodes = [node("Flatten", "x", "f"), node("MatMul", "f w")]
    classifier, _ = load(save(model(nodes, (1, 1, 2, 2), {"w": w}), tmp_path))
    logits = x.reshape(32, 4) @ w
    y, margin = logits.argmax(1), np.abs(logits[:, 0] - logits[:, 1])
    radius = np.abs(w[:, 0] - w[:, 1]).sum() * 0.05
    attacked = drive(
        jax.random.key(0), build("attack", "pgd(steps=20)"), classifier, build("budget", "linf(0.05)"), x, y
    )
    np.testing.assert_array_equal(attacked.success, margin < radius)
    assert 0 < attacked.success.sum() < 32


@pytest.mark.skipif(not MNISTFC.exists(), reason="the network of VNN-COMP 2021 is not here")
def test_a_network_of_vnn_comp_computes_what_onnxruntime_does():
    classifier, description = load(MNISTFC)
    x = image(28, 28, 1)
    assert (description["shape"], description["classes"]) == ([28, 28, 1], 10)
    np.testing.assert_allclose(classifier(x), by_runtime(str(MNISTFC), x.reshape(1, 784, 1)).ravel(), atol=1e-4)


def exported(directory):
    """A small residual network in PyTorch and as PyTorch exports it."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self, ins, outs, stride):
            super().__init__()
            self.branch = nn.Sequential(
                nn.Conv2d(ins, outs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outs),
                nn.ReLU(),
                nn.Conv2d(outs, outs, 3, 1, 1, groups=2),
            )
            self.short = nn.Conv2d(ins, outs, 1, stride)

        def forward(self, x):
            return nn.functional.relu(self.branch(x) + self.short(x))

    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), Residual(8, 12, 2), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    module = nn.Sequential(module, nn.Hardswish(), nn.Linear(12, 10)).eval()
    path = str(directory / "exported.onnx")
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(module, torch.zeros(1, 3, 16, 16), path, dynamo=False, opset_version=17)
    return torch, module, path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_export_of_pytorch_has_its_logits_its_gradient_and_its_pgd(tmp_path):
    torch, module, path = exported(tmp_path)
    classifier, _ = load(path)
    start = image(16, 16, 3)

    @jax.jit
    def ours(classifier, x):
        return jax.value_and_grad(lambda x: jax.nn.log_softmax(classifier(x))[3])(x)

    def theirs(x):
        given = torch.tensor(np.asarray(x).transpose(2, 0, 1)[None], requires_grad=True)
        value = torch.log_softmax(module(given), 1)[0, 3]
        (gradient,) = torch.autograd.grad(value, given)
        return value.item(), gradient[0].numpy().transpose(1, 2, 0)

    value, gradient = ours(classifier, start)
    np.testing.assert_allclose(value, theirs(start)[0], atol=1e-5)
    np.testing.assert_allclose(gradient, theirs(start)[1], atol=1e-5 * np.abs(gradient).max())
    ends = []
    for loss in (lambda x: ours(classifier, x), theirs):
        x = start
        for _ in range(10):
            x = np.clip(x - np.float32(0.005) * np.sign(np.asarray(loss(x)[1])), start - 0.03, start + 0.03)
        ends.append((theirs(x)[0], x))
    gained = theirs(start)[0] - ends[1][0]
    assert gained > 0
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=0.01 * gained)
    assert np.mean(ends[0][1] != ends[1][1]) < 0.01
