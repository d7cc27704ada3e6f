"""ONNX files that are missing, foreign, damaged or hostile."""

import os
import time

import numpy as np
import pytest

from robustbench_jax.models import onnx_file
from robustbench_jax.models.onnx_model import Onnx
from robustbench_jax.types import UserError
from tests.models.onnx_made import TensorProto, helper, model, node, numpy_helper, onnx, save, small_cnn

SIZES = (1, 1, 2, 2)


def load(path, **options):
    return Onnx(str(path), **options).load()


def made(nodes, tensors=None, sizes=SIZES, **options):
    return model([*nodes, node("Flatten", "v", "y")], sizes, tensors, **options)


def with_external(directory, location: str, **entries):
    """A model that adds a tensor of shape [4], whose values lie in a file of their own, to flat pixels."""
    tensor = TensorProto(name="b", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    whole = model([node("Flatten", "x", "f"), node("Add", "f b")], SIZES)
    whole.graph.initializer.append(tensor)
    return save(whole, directory)


def test_a_missing_file_a_directory_and_a_pipe_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="none.onnx"):
        load(tmp_path / "none.onnx")
    with pytest.raises(UserError, match="directory"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(UserError, match="no regular file"):
        load(tmp_path / "pipe.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model at all", bytes(range(256)) * 9, b"\x08\x07"])
def test_what_is_no_onnx_file_is_a_user_error(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UserError, match="no ONNX file"):
        load(tmp_path / "m.onnx")


def test_a_file_cut_short_anywhere_is_a_user_error(tmp_path):
    whole = small_cnn().SerializeToString()
    for length in range(1, len(whole), len(whole) // 23):
        (tmp_path / "m.onnx").write_bytes(whole[:length])
        with pytest.raises(UserError):
            load(tmp_path / "m.onnx")


def test_a_file_with_flipped_bytes_loads_or_is_a_user_error(tmp_path):
    whole, random = small_cnn().SerializeToString(), np.random.default_rng(0)
    start = whole.index(b"small") if b"small" in whole else 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in random.integers(start, len(whole) if random.random() < 0.5 else 600, 3):
            damaged[place] = random.integers(256)
        (tmp_path / "m.onnx").write_bytes(damaged)
        try:
            load(tmp_path / "m.onnx")
        except UserError as error:
            assert "\n" not in str(error)


def test_an_unsupported_operator_is_named_with_its_node_and_the_nearest_one(tmp_path):
    path = save(made([helper.make_node("Convv", ["x"], ["v"], name="first")]), tmp_path)
    with pytest.raises(UserError, match=r"Convv \(Convv node 'first'\).*nearest here is 'Conv'.*output="):
        load(path)


def test_an_operator_of_another_domain_is_named_with_it(tmp_path):
    path = save(made([helper.make_node("FusedConv", ["x"], ["v"], domain="com.microsoft")]), tmp_path)
    with pytest.raises(UserError, match="com.microsoft.FusedConv"):
        load(path)


def test_an_unsupported_operator_that_the_output_does_not_need_is_no_error(tmp_path):
    nodes = [node("Flatten", "x"), node("NonMaxSuppression", "x x", "z")]
    load(save(model(nodes, SIZES, output=["y", "z"]), tmp_path), output="y")


def test_an_old_operator_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="operator set 6; 7 or later"):
        load(save(made([node("Relu", "x", "v")], opset=6), tmp_path))


def test_external_data_beside_the_file_are_read(tmp_path):
    np.arange(8, dtype=np.float32).tofile(tmp_path / "weights.bin")
    classifier, _ = load(with_external(tmp_path, "weights.bin", offset=16, length=16))
    np.testing.assert_array_equal(classifier(np.ones((2, 2, 1), np.float32)), [5, 6, 7, 8])


def test_external_data_in_a_folder_inside_of_the_files_are_read(tmp_path):
    (tmp_path / "data").mkdir()
    np.arange(4, dtype=np.float32).tofile(tmp_path / "data" / "weights.bin")
    classifier, _ = load(with_external(tmp_path, "data/weights.bin"))
    np.testing.assert_array_equal(classifier(np.ones((2, 2, 1), np.float32)), [1, 2, 3, 4])


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/passwd", "inside/../../weights.bin", "", ".", "a\0b"])
def test_external_data_outside_of_the_folder_are_refused(tmp_path, place):
    np.arange(4, dtype=np.float32).tofile(tmp_path / "weights.bin")
    (tmp_path / "inside").mkdir()
    with pytest.raises(UserError, match="refused|missing"):
        load(with_external(tmp_path / "inside", place))


def test_external_data_behind_a_link_that_leaves_the_folder_are_refused(tmp_path):
    np.arange(4, dtype=np.float32).tofile(tmp_path / "weights.bin")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link.bin").symlink_to(tmp_path / "weights.bin")
    (tmp_path / "inside" / "out").symlink_to(tmp_path)
    for place in ("link.bin", "out/weights.bin"):
        with pytest.raises(UserError, match="refused"):
            load(with_external(tmp_path / "inside", place))


def test_external_data_that_are_missing_or_cut_short_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no file 'weights.bin'"):
        load(with_external(tmp_path, "weights.bin"))
    np.arange(3, dtype=np.float32).tofile(tmp_path / "weights.bin")
    with pytest.raises(UserError, match="cut short: 'weights.bin' has 12 bytes, 16 are needed"):
        load(with_external(tmp_path, "weights.bin"))
    with pytest.raises(UserError, match="has 12 bytes"):
        load(with_external(tmp_path, "weights.bin", length=12))
    for entries in ({"offset": -4}, {"offset": "x"}, {"length": "1e9"}):
        with pytest.raises(UserError, match="external data of 'b'"):
            load(with_external(tmp_path, "weights.bin", **entries))


def test_a_tensor_that_claims_more_than_it_holds_is_a_user_error(tmp_path):
    whole = small_cnn()
    whole.graph.initializer[0].dims[0] = 10**12
    with pytest.raises(UserError, match="'k' is damaged"):
        load(save(whole, tmp_path))


@pytest.mark.parametrize(
    "grows",
    [
        [node("ConstantOfShape", "huge", "c"), node("Add", "x c", "v")],
        [node("Expand", "x huge", "v")],
        [node("Tile", "x huge", "v")],
        [node("Pad", "x pads", "v")],
        [node("Resize", "x _ scales", "v")],
        [node("Range", "zero top one", "c"), node("Add", "x c", "v")],
        [node("Expand", "one huge", "c"), node("ReduceSum", "c", "s"), node("Add", "x s", "v")],
        [node("Reshape", "row column", "tall"), node("Mul", "row tall", "c"), node("Add", "x c", "v")],
        [node("OneHot", "index top values", "c"), node("Add", "x c", "v")],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_a_small_file_cannot_make_a_huge_array(tmp_path, grows):
    big = 10**6
    tensors = {
        "huge": np.array([big**2, 1, 2, 2]),
        "pads": np.array([0, 0, 0, 0, 0, 0, big, big]),
        "scales": np.array([1, 1, 1e6, 1e6], np.float32),
        "zero": np.array(0.0, np.float32),
        "one": np.array(1.0, np.float32),
        "top": np.array(1e12, np.float32),
        "row": np.zeros((1, 20_000), np.float32),
        "column": np.array([20_000, 1]),
        "index": np.array([1]),
        "values": np.array([0, 1], np.float32),
    }
    began = time.perf_counter()
    with pytest.raises(UserError, match="limit|cannot resize"):
        load(save(made(grows, tensors), tmp_path))
    assert time.perf_counter() - began < 5


def test_functions_that_unfold_without_end_are_refused(tmp_path):
    whole = made([helper.make_node("f0", ["x"], ["v"], domain="mine")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    for i in range(40):  # each calls the next twice
        calls = [helper.make_node(f"f{i + 1}", [a], [b], domain="mine") for a, b in (("a", "m"), ("m", "b"))]
        body = calls if i < 39 else [node("Relu", "a", "b")]
        whole.functions.append(helper.make_function("mine", f"f{i}", ["a"], ["b"], body, imports))
    whole.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(UserError, match="unfold"):
        load(save(whole, tmp_path))


def test_a_function_of_the_file_is_inlined(tmp_path):
    whole = made([helper.make_node("twice", ["x"], ["v"], domain="mine")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    whole.functions.append(helper.make_function("mine", "twice", ["a"], ["b"], [node("Add", "a a", "b")], imports))
    whole.opset_import.append(helper.make_opsetid("mine", 1))
    np.testing.assert_array_equal(load(save(whole, tmp_path))[0](np.ones((2, 2, 1), np.float32)), [2] * 4)


def test_a_branch_with_a_known_condition_is_taken(tmp_path):
    def branch(name, op):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [out])

    nodes = [node("If", "yes", "v", then_branch=branch("n", "Neg"), else_branch=branch("a", "Abs"))]
    for yes, expected in ((True, -1), (False, 1)):
        classifier, _ = load(save(made(nodes, {"yes": np.array(yes)}), tmp_path))
        np.testing.assert_array_equal(classifier(np.ones((2, 2, 1), np.float32)), [expected] * 4)


def test_a_shape_that_depends_on_the_pixels_is_a_user_error(tmp_path):
    nodes = [node("ReduceMax", "x", "top", keepdims=0), node("Cast", "top", "n", to=7)]
    nodes += [node("Unsqueeze", "n zero", "s"), node("Expand", "x s", "v")]
    with pytest.raises(UserError, match="Expand node 'v': its shape depends on the pixels"):
        load(save(made(nodes, {"zero": np.array([0])}), tmp_path))


def test_a_graph_that_does_not_fit_itself_names_the_node_and_the_shapes(tmp_path):
    path = save(made([node("MatMul", "x w", "v")], {"w": np.ones((3, 3), np.float32)}), tmp_path)
    with pytest.raises(UserError, match=r"MatMul node 'v' does not take inputs of shape \[1, 1, 2, 2\], \[3, 3\]"):
        load(path)
    with pytest.raises(UserError, match="reads 'ghost', which nothing before it makes"):
        load(save(made([node("Add", "x ghost", "v")]), tmp_path))


def test_a_model_in_training_mode_is_refused(tmp_path):
    four = {name: np.ones(1, np.float32) for name in "sbmv"}
    path = save(
        made([node("BatchNormalization", "x s b m v", "v", training_mode=1)], four | {"v": four["v"]}), tmp_path
    )
    with pytest.raises(UserError, match="evaluation mode|before it makes"):
        load(path)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_half_and_double_weights_become_float32(tmp_path, kind):
    nodes = [
        node("Cast", "x", "c", to=int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))),
        node("Add", "c b", "v"),
    ]
    classifier, _ = load(save(made(nodes, {"b": np.full(2, 0.5, kind)}), tmp_path))
    assert {str(v.dtype) for v in classifier.params.values()} == {"float32"}
    np.testing.assert_array_equal(classifier(np.ones((2, 2, 1), np.float32)), [1.5] * 4)


def test_raw_and_typed_tensor_data_are_the_same(tmp_path):
    read = onnx_file.Tensors("m.onnx")
    for values in (
        np.arange(4, dtype=np.float32),
        np.arange(4),
        np.array([True, False]),
        np.arange(3, dtype=np.float16),
    ):
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        typed = read.array(helper.make_tensor("t", kind, values.shape, values))
        np.testing.assert_array_equal(typed, read.array(numpy_helper.from_array(values)))


def test_text_tensors_are_refused():
    with pytest.raises(UserError, match="holds no numbers"):
        onnx_file.Tensors("m.onnx").array(helper.make_tensor("t", TensorProto.STRING, [1], ["a"]))
