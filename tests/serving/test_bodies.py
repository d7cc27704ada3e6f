"""Bodies: what is read of them, and that nothing in them is anything but an array or a refusal."""

import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustbench_jax.ops.images import as_unit
from robustbench_jax.serving import bodies
from robustbench_jax.serving.problems import Problem
from tests.serving.running import NPY, SHAPE, images, npy

JSON = "application/json"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


def decoded(kind: str, body: bytes, most: int = 8) -> np.ndarray:
    return bodies.images(kind, body, SHAPE, most)


def status(kind: str, body: bytes) -> int:
    """200, or the refusal's status; any other exception is the test's failure."""
    try:
        x = decoded(kind, body)
    except Problem as problem:
        assert problem.detail and "\n" not in problem.detail and len(problem.detail) < 400
        return problem.status
    assert x.dtype == np.float32 and x.shape[1:] == SHAPE and x.min() >= 0 and x.max() <= 1
    return 200


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 5])
def test_floats_arrive_to_the_bit_in_both_forms(dtype, count):
    x = images(count)
    np.testing.assert_array_equal(decoded(NPY, npy(x.astype(dtype))), x)
    np.testing.assert_array_equal(decoded(NPY, npy(np.asfortranarray(x))), x)
    np.testing.assert_array_equal(decoded(JSON, json.dumps({"images": x.tolist()}).encode()), x)


def test_bytes_become_the_levels_that_every_other_image_has():
    x = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    np.testing.assert_array_equal(decoded(NPY, npy(x)), as_unit(x))
    body = json.dumps({"images": x.tolist(), "dtype": "uint8"}).encode()
    np.testing.assert_array_equal(decoded(JSON, body), as_unit(x))


def test_one_image_needs_no_batch_axis():
    np.testing.assert_array_equal(decoded(NPY, npy(images(1)[0])), images(1))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"images": [[NaN]]}', "NaN is no number"),
        ('{"images": [[Infinity]]}', "Infinity is no number"),
        ('{"images": ' + "[" * 100_000, "nested too deeply"),
        ('{"images": ' + "[" * 60 + "0" + "]" * 60 + "}", "shape"),
        ('{"images": [[1e999]]}', "shape"),
        ('{"images": [1' + "0" * 5000 + "]}", "no JSON"),
        ('{"images": [[1, 2], [3]]}', "equal lengths"),
        ('{"images": ["a"]}', "numbers"),
        ('{"images": [true]}', "numbers"),
        ('{"images": null}', "numbers"),
        ('{"images": {}}', "numbers"),
        ('{"image": []}', "did you mean 'images'"),
        ('{"images": [0], "dtype": "uint9"}', "did you mean 'uint8'"),
        ('{"images": [0.5], "dtype": "uint8"}', "whole numbers"),
        ('{"images": [256], "dtype": "uint8"}', "whole numbers"),
        ("[]", "an object"),
        ("", "no JSON"),
        ("\ud800", "no JSON"),
    ],
)
def test_wrong_json_is_one_line(body, said):
    with pytest.raises(Problem) as caught:
        decoded(JSON, body.encode("utf-8", "surrogatepass"))
    assert caught.value.status == 422 and said in caught.value.detail


def test_values_outside_the_box_are_refused_and_named():
    for value, said in ((1.01, "1.01"), (-0.5, "-0.5"), (np.nan, "NaN"), (np.inf, "NaN or infinity")):
        x = images(2)
        x[1, 2, 3, 0] = value
        with pytest.raises(Problem, match=said):
            decoded(NPY, npy(x))
    with pytest.raises(Problem, match="NaN or infinity"):
        decoded(JSON, json.dumps({"images": np.full(SHAPE, 0.5).tolist()}).replace("0.5", "1e999").encode())


def test_too_many_images_and_none_are_refused():
    assert status(NPY, npy(images(9))) == 413
    assert status(NPY, npy(images(8))) == 200
    assert status(NPY, npy(images(0))) == 422


def header(text: str, data: bytes = b"", length: int | None = None, version: int = 1) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + data


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x03\x00\xff\xff\xff\xff{}",
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"\x80\x04N."),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999, 999999999), }\n"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4, 1), }\n", b"\0" * 63),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4, 1), }\n", b"\0" * 65),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 4, 1), }\n", b"\0" * 64),
        header("{'descr': '<c8', 'fortran_order': False, 'shape': (4, 4, 1), }\n", b"\0" * 128),
        header("{'descr': '>f4', 'fortran_order': False, 'shape': (4, 4, 1), }\n", b"\0" * 64),
        header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (16,), }\n", b"\0" * 64),
        header("__import__('os').abort()"),
        header("(" * 1000),
        npy(np.array("text")),
    ],
    ids=range(16),
)
def test_hostile_arrays_are_refused(body):
    assert status(NPY, body) == 422


def test_pickles_in_arrays_are_never_loaded():
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    file = io.BytesIO()
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    assert status(NPY, file.getvalue()) == 422


@given(st.binary(max_size=400))
def test_any_bytes_are_images_or_a_refusal(body):
    assert status(NPY, body) in (200, 413, 422)
    assert status(NPY, b"\x93NUMPY\x01\x00" + body) in (200, 413, 422)
    assert status(JSON, body) in (200, 413, 422)


@given(VALUES, st.sampled_from(["float32", "uint8", None, 3, []]))
def test_any_json_is_images_or_a_refusal(value, dtype):
    assert status(JSON, json.dumps(value).encode()) in (200, 413, 422)
    assert status(JSON, json.dumps({"images": value, "dtype": dtype}).encode()) in (200, 413, 422)


@given(st.integers(0, 300), st.binary(min_size=1, max_size=3))
def test_an_array_with_any_bytes_changed_is_images_or_a_refusal(place, change):
    good = npy(images(2))
    place = min(place, len(good))
    assert status(NPY, good[:place] + change + good[place + len(change) :]) in (200, 413, 422)
    assert status(NPY, good[:place]) in (422, 200 if place == len(good) else 422)
