"""VNN-LIB: files to boxes and half-spaces, and verdicts about models whose outputs are known everywhere."""

import csv
import gzip
import json
import os
import re
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.bench.verify import verify_files
from robustbench_jax.certify import bounding, counterexamples, halving, vnnlib
from robustbench_jax.certify.verify import verify
from robustbench_jax.cli import main
from robustbench_jax.ops.bounds.regions import boxed
from robustbench_jax.types import Classifier, UserError
from tests.oracles import affine

MNIST = Path(os.environ.get("VNNCOMP_MNISTFC", "data/vnncomp2021_mnistfc"))


def declared(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def box(low, high) -> str:
    return "".join(
        f"(assert (>= X_{i} {a!r}))\n(assert (<= X_{i} {b!r}))\n"
        for i, (a, b) in enumerate(zip(low, high, strict=True))
    )


def asked(inputs: int, outputs: int, low, high, *assertions: str) -> vnnlib.Specification:
    return vnnlib.parse(declared(inputs, outputs) + box(low, high) + "".join(f"(assert {a})\n" for a in assertions))


def linear_model(weights, bias) -> Classifier:
    return Classifier(affine, {"w": np.array(weights, np.float32), "b": np.array(bias, np.float32)})


def relu_net(params, x):
    """One hidden layer on (x, -x), and the input itself beside it."""
    x = x.reshape(-1)
    return jax.nn.relu(jnp.concatenate([x, -x])) @ params["w"] + x @ params["skip"]


def two_inputs(w, skip) -> Classifier:
    return Classifier(relu_net, {"w": np.array(w, np.float32), "skip": np.array(skip, np.float32)})


def distance() -> Classifier:
    """Outputs |x_0| + |x_1| and its negative."""
    return two_inputs([[1, -1]] * 4, np.zeros((2, 2)))


def verdict(model, specification, shape=(1, 2, 1), timeout=60.0):
    return verify(jax.random.key(0), model, specification, shape=shape, timeout=timeout)


def test_a_file_becomes_its_box_and_rows():
    found = vnnlib.parse(
        """; a comment (with brackets
        (declare-const X_1 Real) (declare-const X_0 Real)
        (declare-const Y_0 Real) (declare-const Y_1 Real) ; out of order
        (assert (>= X_0 -1.5e-1)) (assert (<= X_0 (- 0.1)))
        (assert (and (<= 2 X_1) (<= (* 2 X_1) 5.)))
        (assert (<= (+ (* 2.0 Y_0) (- Y_1) -3) (* (- 1e-1) 5)))
        (assert (>= Y_1 (- Y_0 4 .5)))"""
    )
    (case,) = found.cases
    assert (found.inputs, found.outputs) == (2, 2)
    np.testing.assert_array_equal(case.low, [-0.15, 2.0])
    np.testing.assert_array_equal(case.high, [-0.1, 2.5])
    np.testing.assert_array_equal(case.rows, [[2.0, -1.0], [1.0, -1.0]])
    np.testing.assert_allclose(case.offsets, [-2.5, -4.5], rtol=1e-15)


def test_nested_truths_are_multiplied_out():
    nested = "(or (and (<= Y_0 0) (or (<= Y_1 1) (<= Y_1 2))) (<= X_0 0.5))"
    found = asked(1, 2, [0.0], [1.0], nested, "(or (<= Y_0 7) (<= Y_0 8))")
    seen = {(case.high[0], tuple(sorted(-case.offsets))) for case in found.cases}
    expected = {(1.0, tuple(sorted((0.0, a, b)))) for a in (1.0, 2.0) for b in (7.0, 8.0)}
    assert seen == expected | {(0.5, (7.0,)), (0.5, (8.0,))}
    assert len(found.cases) == 6


def test_each_case_keeps_its_own_box():
    found = asked(
        2, 1, [0.0, 0.0], [1.0, 1.0], "(or (and (<= X_0 0.25) (<= Y_0 0)) (and (>= X_1 0.5) (<= Y_0 0)) (<= Y_0 1))"
    )
    np.testing.assert_array_equal([case.low for case in found.cases], [[0, 0], [0, 0.5], [0, 0]])
    np.testing.assert_array_equal([case.high for case in found.cases], [[0.25, 1], [1, 1], [1, 1]])


def test_a_false_constant_ends_its_case():
    assert len(asked(1, 1, [0.0], [1.0], "(or (<= 2 1) (<= Y_0 0))").cases) == 1
    assert asked(1, 1, [0.0], [1.0], "(<= 2 1)", "(<= Y_0 0)").cases == ()
    assert len(asked(1, 1, [0.0], [1.0], "(<= Y_0 Y_0)").cases) == 1


def test_packed_files_read_the_same(tmp_path):
    text = declared(2, 2) + box([0.0, 0.25], [0.5, 1.0]) + "(assert (<= Y_0 Y_1))"
    (tmp_path / "a.vnnlib").write_text(text)
    (tmp_path / "a.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    plain, packed = (vnnlib.read(tmp_path / name).cases[0] for name in ("a.vnnlib", "a.vnnlib.gz"))
    for name in ("low", "high", "rows", "offsets"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(packed, name))


@pytest.mark.parametrize(
    ("assertion", "message"),
    [
        ("(<= Y_0 Y_9)", "line 5: 'Y_9' is not declared; did you mean"),
        ("(<= Y_0 foo)", "line 5: 'foo' is not declared"),
        ("(<= Y_0 1e999)", "line 5: '1e999' is too large"),
        ("(<= (* Y_0 Y_1) 1)", "line 5: '(* Y_0 Y_1)' is a product of variables"),
        ("(<= X_0 Y_0)", "line 5: '(<= X_0 Y_0)' compares inputs with outputs"),
        ("(<= (+ X_0 X_1) 1)", "line 5: '(<= (+ X_0 X_1) 1)' is no bound of one input: it has X_0 and X_1"),
        ("(< Y_0 1)", "line 5: '<' known here are <=, >=, and, or"),
        ("(<= Y_0 (/ 1 2))", "line 5: '/' known here are +, -, *"),
        ("(<= Y_0 1 2)", "line 5: '(<= Y_0 1 2)' takes 2, has 3"),
        ("(and)", "line 5: '(and)' takes at least 1, has 0"),
        ("(or (<= Y_0 1) Y_1)", "line 5: 'Y_1' (<= | >= | and | or ...) belongs here"),
        ("(and (<= Y_0 1)", "line 5: '(assert (and (<= Y_0 1)))' is never closed"),
        ("(<= Y_0 1)))", "line 5: ')' stands outside of brackets"),
        ("(<= Y_0 1)", "line 1: 'X_0' has no lower bound"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(assertion, message):
    with pytest.raises(UserError, match=re.escape(message)):
        vnnlib.parse(declared(2, 2) + f"(assert {assertion})")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(declare-const X_0 Int)", "line 1: 'Int' variables are Real"),
        ("(declare-const Z_0 Real)", "line 1: 'Z_0' inputs are called X_0"),
        ("(declare-fun X_0 Real)", "did you mean 'declare-const'?"),
        ("(declare-const X_0 Real)\n(declare-const X_0 Real)", "line 2: 'X_0' is declared already, in line 1"),
        ("(declare-const X_0 Real)\n(declare-const X_2 Real)", "line 2: 'X_2' X_1 is not declared"),
        ("(declare-const X_0 Real)", "declares no outputs"),
        ("(" * 300, "line 1: '(' more than 200 brackets"),
    ],
)
def test_wrong_declarations_are_named(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        vnnlib.parse(text)


def test_float32_boxes_are_the_nearest_on_either_side():
    values = np.random.default_rng(0).normal(size=200)
    case = vnnlib.Case(values, values, np.zeros((0, 1)), np.zeros(0))
    inner, outer = counterexamples.inwards(case), counterexamples.outwards(case)
    assert (inner[0].astype(float) >= values).all() and (inner[1].astype(float) <= values).all()
    np.testing.assert_array_equal(inner[0], np.nextafter(inner[1], np.float32(np.inf)))
    np.testing.assert_array_equal(outer, inner[::-1])


@pytest.mark.parametrize("gap", [-1e-3, 1e-3])
def test_a_linear_model_is_decided_at_its_exact_maximum(gap):
    """Its output is at most sum(max(w low, w high)) + b."""
    rng = np.random.default_rng(1)
    w, b = rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    low, high = [-3.0, 2.0], [-1.0, 5.0]  # images of specifications may lie outside of [0, 1]
    most = float(np.maximum(w[:, 0] * low, w[:, 0] * high).sum() + b[0])
    found = verdict(linear_model(w, b), asked(2, 3, low, high, f"(>= Y_0 {most + gap!r})"))
    assert found.status == ("unsat" if gap > 0 else "sat")
    if gap > 0:
        np.testing.assert_allclose(found.lower, [gap], atol=1e-5)
        assert found.counterexample is None
    else:
        x = found.counterexample.reshape(-1).astype(np.float64)
        assert found.counterexample.shape == (1, 2, 1) and (x >= low).all() and (x <= high).all()
        assert x @ w[:, 0] + b[0] >= most + gap - 1e-6
        assert found.logits[0] >= most + gap


@pytest.mark.parametrize(("threshold", "status"), [(1.9, "sat"), (2.1, "unsat")])
def test_a_counterexample_of_either_case_is_one(threshold, status):
    """|x_0| + |x_1| is at most 1 in the first box and at most 2 in the second."""
    either = f"(or (and (<= X_0 0) (>= Y_0 {threshold})) (and (>= X_0 0.5) (>= Y_0 {threshold})))"
    found = verdict(distance(), asked(2, 2, [-0.25, -0.75], [1.25, 0.75], either))
    assert found.status == status
    assert found.counterexample is None or found.counterexample.reshape(-1)[0] >= 0.5


@pytest.mark.parametrize(("threshold", "status"), [(0.4, "unsat"), (-0.1, "unsat"), (-0.6, "sat")])
def test_all_of_a_conjunction_must_hold_at_one_point(threshold, status):
    """Y_0 = x_0 + 0.05 and Y_1 = -x_0 - 0.45: their sum is -0.4, so both reach a threshold of at most -0.2 only."""
    model = linear_model([[1.0, -1.0], [0.0, 0.0]], [0.05, -0.45])
    found = verdict(model, asked(2, 2, [-1.0, 0.0], [1.0, 1.0], f"(and (>= Y_0 {threshold}) (>= Y_1 {threshold}))"))
    assert found.status == status
    if status == "unsat":
        np.testing.assert_allclose(found.lower, threshold + 0.2, atol=1e-6)  # the bound of their mean
    else:
        assert (found.logits >= threshold).all()


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [0, 2])
def test_what_linear_bounds_leave_open_is_split(monkeypatch, inputs):
    """Y_0 = relu(x) - relu(-x) - x is 0 everywhere; on [-1, 1] no lines show it to be below 0.5.

    inputs: up to so many are halved; of more than that, neurons are split.
    """
    monkeypatch.setattr(halving, "FEW", inputs)
    model = two_inputs([[1, 0], [0, 0], [-1, 0], [0, 0]], [[-1, 0], [0, 0]])
    regions = jax.vmap(boxed)(*(jnp.full((1, 1, 2, 1), v) for v in (-1.0, 1.0)))
    known = bounding.first_layers(model, regions)
    assert bounding.linear_margins(model, regions, jnp.array([[[-1.0, 0.0]]]), known)[0, 0] <= -0.5
    found = verdict(model, asked(2, 2, [-1.0, -1.0], [1.0, 1.0], "(>= Y_0 0.25)"))
    assert found.status == "unsat" and 0 < found.lower[0] <= 0.25


def test_boxes_without_points_and_cases_without_rows():
    model = linear_model(np.eye(2), [0.0, 0.0])
    upside_down = asked(2, 2, [0.5, 0.0], [0.25, 1.0], "(<= Y_0 9)")
    assert verdict(model, upside_down).status == "unsat"
    anything = asked(2, 2, [0.25, 0.0], [0.5, 1.0])
    assert verdict(model, anything).status == "sat"


def test_nothing_is_reported_that_float32_cannot_show():
    """The box is one number that float32 does not have: no counterexample can be given, and no proof either."""
    found = verdict(linear_model(np.eye(2), [0.0, 0.0]), asked(2, 2, [0.1, 0.1], [0.1, 0.1], "(<= Y_0 1)"), timeout=2.0)
    assert found.status == "timeout" and found.counterexample is None


@pytest.mark.parametrize(("inputs", "outputs", "what"), [(3, 2, "3 inputs"), (2, 3, "3 outputs")])
def test_numbers_that_do_not_fit_are_named(inputs, outputs, what):
    specification = asked(inputs, outputs, [0.0] * inputs, [1.0] * inputs, "(<= Y_0 0)")
    with pytest.raises(UserError, match=f"the specification has {what}, the model 2"):
        verdict(linear_model(np.eye(2), [0.0, 0.0]), specification)


@pytest.fixture
def onnx_file(tmp_path):
    """Six inputs [1, 2, 1, 3] with channels first; outputs X_1 and X_3, alone."""
    made = pytest.importorskip("tests.models.onnx_made")
    pick = np.zeros((6, 2), np.float32)
    pick[1, 0] = pick[3, 1] = 1
    nodes = [made.node("Flatten", "x", "f"), made.node("MatMul", "f w", "y")]
    return made.save(made.model(nodes, (1, 2, 1, 3), {"w": pick}), tmp_path)


def test_inputs_are_in_the_order_of_the_file(onnx_file, tmp_path):
    low, high = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    path = tmp_path / "s.vnnlib"
    path.write_text(declared(6, 2) + box(low, high) + "(assert (>= Y_0 1.4)) (assert (>= Y_1 3.4))")
    found, x = verify_files(path, f'onnx("{onnx_file}")', 30)
    assert found.status == "sat"
    assert (x >= low).all() and (x <= high).all()
    np.testing.assert_array_equal(found.logits, x[[1, 3]])


def test_a_network_in_double_precision_is_refused(onnx_file, tmp_path):
    """In float32 it is another network, whose counterexamples need not be its own."""
    onnx = pytest.importorskip("onnx")
    model, path = onnx.load(onnx_file), tmp_path / "s.vnnlib"
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, tmp_path / "wide.onnx")
    path.write_text(declared(6, 2) + box([0.0] * 6, [0.1] * 6) + "(assert (>= Y_0 0.11))")
    with pytest.raises(UserError, match="computes in float64"):
        verify_files(path, f'onnx("{tmp_path / "wide.onnx"}")', 30)


def test_the_verb_prints_the_verdict(onnx_file, tmp_path, capsys):
    path = tmp_path / "s.vnnlib"
    start = declared(6, 2) + box([0.0] * 6, [0.1] * 6)
    command = ["certify", "--vnnlib", str(path), "--model", f'onnx("{onnx_file}")', "--timeout", "30"]

    path.write_text(start + "(assert (>= Y_0 0.09))")
    assert main(command) == 0
    status, shown = capsys.readouterr().out.split("\n", 1)
    values = re.findall(r"\(([XY])_(\d+) (\S+?)\)", shown)
    assert status == "sat" and shown.startswith("((X_0 ") and shown.rstrip().endswith("))")
    assert [(a, int(i)) for a, i, _ in values] == [("X", i) for i in range(6)] + [("Y", 0), ("Y", 1)]
    assert all(0 <= float(v) <= 0.1 for _, _, v in values) and float(values[6][2]) >= 0.09

    path.write_text(start + "(assert (>= Y_0 0.11))")
    assert main(command) == 0
    assert capsys.readouterr().out == "unsat\n"
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["counterexample"]) == ("unsat", None)
    np.testing.assert_allclose(told["lower"], [0.01], atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "digits"], "leave out --dataset"),
        (["--timeout", "0"], "timeout = 0.0 must be greater than 0"),
        (["--model", "cnn"], "must be an ONNX file"),
    ],
)
def test_the_verb_says_what_does_not_belong(onnx_file, tmp_path, capsys, flags, message):
    path = tmp_path / "s.vnnlib"
    path.write_text(declared(6, 2) + box([0.0] * 6, [0.1] * 6) + "(assert (>= Y_0 0.11))")
    assert main(["certify", "--vnnlib", str(path), "--model", f'onnx("{onnx_file}")', *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prop_2_0.03", "prop_14_0.03"])
@pytest.mark.skipif(not MNIST.exists(), reason="needs VNN-COMP 2021's mnistfc: set VNNCOMP_MNISTFC to its folder")
def test_vnncomp_properties_are_decided_as_published(name, tmp_path):
    """α,β-CROWN's verdicts at VNN-COMP 2021: unsat and sat."""
    with zipfile.ZipFile(MNIST / "vnnlib.zip") as packed:
        path = packed.extract(f"{name}.vnnlib", tmp_path)
    with (MNIST / "expected.csv").open() as file:
        expected = {row["property"]: row["verdict_abcrown"].lower() for row in csv.DictReader(file)}
    found, _ = verify_files(path, f'onnx("{MNIST / "mnist-net_256x2.onnx"}")', 60)
    assert found.status == expected[f"{name}.vnnlib"]
