"""Reading PyTorch's files: what is in them comes out, what is not a state dict is refused, and nothing is run."""

import io
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

from robustbench_jax.models import torch_files
from robustbench_jax.types import UserError
from tests.models.made import Raw, Tensor, asks_for, in_sequence, zipped

RNG = np.random.default_rng(0)
PLAIN = {
    "a.weight": RNG.normal(size=(2, 3)).astype(np.float32),
    "a.count": np.array(7, np.int64),
    "none": np.zeros((0, 4), np.float32),
}
FORMATS = pytest.mark.parametrize("form", [zipped, in_sequence], ids=["zip", "sequence"])


@pytest.fixture
def read(tmp_path):
    """Reads bytes from a file m.pt."""

    def call(content: bytes):
        (tmp_path / "m.pt").write_bytes(content)
        return torch_files.read(str(tmp_path / "m.pt"))[0]

    return call


def refusal(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@FORMATS
def test_both_formats_give_the_arrays_that_were_written(form, read):
    assert_same(read(form(PLAIN)), PLAIN)


def test_safetensors_give_the_same(read):
    found = read(save(PLAIN))
    assert_same({name: found[name] for name in PLAIN}, PLAIN)


@FORMATS
@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_floats_of_any_precision_become_float32(form, dtype, read):
    values = np.array([[1.5, -0.25], [3e-3, 200]]).astype(dtype)
    found = read(form({"w": values}))["w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_bfloat16_and_half_safetensors_become_float32(read):
    values = {"b": np.array([1.5, 1e30], ml_dtypes.bfloat16), "h": np.array([0.1, -2], np.float16)}
    found = read(save(values))
    assert_same({name: found[name] for name in values}, {k: v.astype(np.float32) for k, v in values.items()})


@FORMATS
def test_views_are_read_with_their_offset_and_strides(form, read):
    base = np.arange(12, dtype=np.float32)
    found = read(form({"w": Tensor(base, offset=1, size=(2, 3), stride=(1, 4))}))
    np.testing.assert_array_equal(found["w"], [[1, 5, 9], [2, 6, 10]])


@FORMATS
@pytest.mark.parametrize(
    "tensor",
    [
        {"offset": 1},
        {"offset": -1},
        {"size": (3, 3)},
        {"size": (2, 3), "stride": (3, 2)},
        {"size": (1 << 20, 1 << 20), "stride": (0, 0)},
        {"size": (2, 3), "stride": (-3, 1)},
        {"size": (2,)},
        {"size": ("2", 3)},
    ],
    ids=str,
)
def test_a_tensor_that_reaches_out_of_its_storage_is_an_error(form, tensor, read):
    said = refusal(read, form({"w": Tensor(np.ones((2, 3), np.float32), **tensor)}))
    assert "damaged" in said or "far more numbers" in said


@FORMATS
def test_a_small_file_that_describes_many_large_arrays_is_refused(form, read):
    again = asks_for("torch._utils", "_rebuild_tensor_v2", Raw(b"h\x00"), 0, (1000,), (1,), False, None)
    read(form({"w": np.ones(1000, np.float32), "tied": again}))
    content = form({"w": np.ones(1000, np.float32)} | {f"w{i}": again for i in range(2000)})
    assert "far more numbers" in refusal(read, content)


HOSTILE = {
    "os.system": lambda path: asks_for("os", "system", f"touch {path}"),
    "builtins.eval": lambda path: asks_for("builtins", "eval", f"open({str(path)!r}, 'w')"),
    "__builtin__.exec": lambda path: asks_for("__builtin__", "exec", f"open({str(path)!r}, 'w')"),
    "subprocess.Popen": lambda path: asks_for("subprocess", "Popen", f"touch {path}"),
    "builtins.getattr": lambda path: asks_for("builtins", "getattr", "", "format"),
    "torch.load": lambda path: asks_for("torch", "load", str(path)),
    "torch.hub.load": lambda path: asks_for("torch.hub", "load", str(path)),
    "torch._utils.os.system": lambda path: Raw(
        b"X\x0c\x00\x00\x00torch._utilsX\x09\x00\x00\x00os.system\x93" + f"(V touch {path}\ntR".encode()
    ),
    "__main__.Net": lambda path: asks_for("__main__", "Net"),
}


@FORMATS
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_by_the_name_of_its_global_and_nothing_is_run(form, name, read, tmp_path):
    said = refusal(read, form(PLAIN | {"x": HOSTILE[name](tmp_path / "ran")}))
    assert f"asks for {name}," in said and "nothing was run" in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name, code",
    [("INST", b"(ios\nsystem\n"), ("EXT1", b"\x82\x01"), ("OBJ", b"(cos\nsystem\no"), ("PERSID", b"Pid\n")],
)
def test_pickle_instructions_that_no_state_dict_has_are_refused(name, code, read):
    assert f"instruction {name};" in refusal(read, zipped({"x": Raw(code)}))


@FORMATS
def test_what_a_file_does_to_an_allowed_global_ends_with_the_file(form, read):
    """BUILD sets attributes: here those of the function that makes tensors."""
    code = b"ctorch._utils\n_rebuild_tensor_v2\n(N}(X\x0c\x00\x00\x00__defaults__N" + b"utb"
    try:
        read(form({"x": Raw(code)} | PLAIN))
    except UserError:
        pass
    assert_same(read(form(PLAIN)), PLAIN)


@FORMATS
@pytest.mark.parametrize("state", [{"count": 1 << 40}, {"dtype": "O"}, {"storage": None}, {"size": [1 << 40]}], ids=str)
def test_a_file_cannot_change_a_tensor_after_it_was_made(form, state, read):
    """BUILD writes into an object's attributes, also into those of a frozen dataclass."""
    tensor = asks_for("torch._utils", "_rebuild_tensor_v2", Raw(b"h\x00"), 0, (1,), (1,), False, None)
    if "storage" not in state and "size" not in state:
        tensor = Raw(b"h\x00")
    code = tensor.code + pickle.dumps(state, 2)[2:-1] + b"b"
    assert "it changes a" in refusal(read, form({"w": np.ones(1, np.float32), "x": Raw(code)}))


def test_a_deeply_nested_file_is_no_state_dict(read, tmp_path):
    found = read(zipped({"x": Raw(b"}X\x01\x00\x00\x00a" * 5000 + b"}" + b"s" * 5000)}))
    assert "holds no state dict" in refusal(torch_files.state_dict, found, "m.pt")


def test_an_archive_whose_records_say_more_than_the_file_holds_is_refused(read):
    content = bytearray(zipped({"w": np.ones(4, np.float32)}))
    entry = content.rindex(b"PK\x01\x02")  # in the directory: the last record's two sizes
    content[entry + 20 : entry + 28] = (1 << 30).to_bytes(4, "little") * 2
    assert "larger than the file" in refusal(read, bytes(content))


@FORMATS
def test_what_lies_beside_the_tensors_is_passed_over(form, read):
    scalar = asks_for("numpy.core.multiarray", "scalar", asks_for("numpy", "dtype", "f8", False, True), "12345678")
    found = read(form({"epoch": 3, "best": scalar, "name": "x", "state_dict": PLAIN, "args": None}))
    assert_same(torch_files.state_dict(found, "m.pt"), PLAIN)


@FORMATS
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_file_that_is_cut_short_is_an_error_that_says_so(form, part, read):
    content = form({"w": np.ones(100, np.float32)} | PLAIN)
    said = refusal(read, content[: int(part * len(content))])
    assert "m.pt is cut short or damaged" in said or "is neither" in said


@pytest.mark.parametrize("part", [0.3, 0.8, 0.99])
def test_cut_safetensors_are_an_error(part, read):
    content = save(PLAIN)
    assert "cut short or damaged" in refusal(read, content[: int(part * len(content))])


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is neither a PyTorch file"),
        (b"hello, this is text", "is neither a PyTorch file"),
        (pickle.dumps({"a": 1}, 2), "is a plain pickle"),
        (b"\x80\x02}.", "is a plain pickle"),
    ],
)
def test_other_files_are_named_as_such(content, said, read):
    assert said in refusal(read, content)


def test_an_archive_of_something_else_is_named_as_such(read):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/b.txt", "x")
    assert "without data.pkl" in refusal(read, file.getvalue())


def test_a_missing_file_is_an_error(tmp_path):
    assert "No such file" in refusal(torch_files.read, str(tmp_path / "gone.pt"))
    assert "cannot read" in refusal(torch_files.read, str(tmp_path))


@FORMATS
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_changed_bytes_are_an_error_or_other_numbers_and_never_anything_else(form, read):
    content = bytearray(form(PLAIN))
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(300):
        place, byte = rng.integers(len(content)), rng.integers(256)
        changed = bytes(content[:place]) + bytes([byte]) + bytes(content[place + 1 :])
        try:
            read(changed)
            outcomes.add("read")
        except UserError as error:
            assert "\n" not in str(error)
            outcomes.add("error")
    assert outcomes == {"read", "error"}


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model", "net"])
def test_a_state_dict_is_found_under_its_usual_names(name):
    arrays = {"a": np.ones(2), "b": np.ones(3)}
    beside = {"best": np.ones(()), "lr": np.ones(()), "optimizer": {"state": {0: {"m": np.ones(2)}}}}
    assert torch_files.state_dict({**beside, name: arrays}, "m.pt") is not None
    assert list(torch_files.state_dict({name: arrays, "ema": arrays | {"c": np.ones(1)}}, "m.pt")) == ["a", "b"]


def test_among_several_state_dicts_the_user_chooses():
    several = {"last": {"a": np.ones(2)}, "best": {"a": np.zeros(2)}}
    assert "'last', 'best'" in refusal(torch_files.state_dict, several, "m.pt")
    assert torch_files.state_dict(several, "m.pt", "best")["a"].sum() == 0
    assert "no state dict 'first'; it has: 'last', 'best'" in refusal(torch_files.state_dict, several, "m.pt", "first")
    assert "holds no state dict" in refusal(torch_files.state_dict, {"epoch": 3}, "m.pt")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "sequence"])
def test_what_pytorch_itself_writes_is_read(new, tmp_path):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 4)).state_dict()
    odd = {
        "half": torch.randn(3, 4).half(),
        "bfloat16": torch.randn(5).bfloat16(),
        "double": torch.randn(2).double(),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "turned": torch.randn(3, 4).T,
        "slice": torch.randn(10)[3:7],
        "scalar": torch.tensor(3),
        "bool": torch.tensor([True, False]),
    }
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9).state_dict()
    whole = {"epoch": 1, "best": np.float64(0.5), "optimizer": optimiser, "state_dict": {**layer, **odd}}
    torch.save(whole, tmp_path / "m.pt", _use_new_zipfile_serialization=new)
    found = torch_files.state_dict(torch_files.read(str(tmp_path / "m.pt"))[0], "m.pt")
    assert list(found) == list(whole["state_dict"])
    for name, value in whole["state_dict"].items():
        expected = value.detach()
        expected = expected.float() if expected.is_floating_point() else expected
        np.testing.assert_array_equal(found[name], expected.numpy(), err_msg=name)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "sequence"])
def test_a_whole_module_is_refused_with_what_to_do(new, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt", _use_new_zipfile_serialization=new)
    assert "save model.state_dict()" in refusal(torch_files.read, str(tmp_path / "m.pt"))
