"""PyTorch files written by hand, and arrays that follow from their names, for tests of what reads them."""

import io
import pickle
import zipfile
import zlib
from dataclasses import dataclass

import jax
import numpy as np
from safetensors.numpy import save_file

from robustbench_jax.models import build_model
from robustbench_jax.models.torch_names import published

STORAGES = {"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long"}


@dataclass(frozen=True)
class Raw:
    """Pickle instructions as they are."""

    code: bytes


@dataclass(frozen=True)
class Tensor:
    """An array, and where what the file says of it differs from the truth."""

    values: np.ndarray
    offset: int = 0
    size: tuple | None = None
    stride: tuple | None = None


def asks_for(module: str, name: str, *arguments) -> Raw:
    """Instructions that call a global."""
    return Raw(f"c{module}\n{name}\n".encode() + written(arguments, []) + b"R")


def written(value, tensors: list) -> bytes:
    """The pickle instructions (protocol 2) of a value; collects the arrays of its tensors."""
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, dict):
        pairs = b"".join(written(k, tensors) + written(v, tensors) for k, v in value.items())
        return b"}(" + pairs + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(written(v, tensors) for v in value) + b"t"
    if isinstance(value, str):
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
    if isinstance(value, bool) or value is None:
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)
    value = value if isinstance(value, Tensor) else Tensor(np.asarray(value))
    return _tensor(value, tensors)


def _tensor(tensor: Tensor, tensors: list) -> bytes:
    values = tensor.values.copy()
    kind = Raw(f"ctorch\n{STORAGES[values.dtype.name]}Storage\n".encode())
    storage = ("storage", kind, str(len(tensors)), "cpu", values.size)
    memo = b"r" + len(tensors).to_bytes(4, "little")  # the storage of tensor n is object n of the pickle's memory
    tensors.append(values)
    size = values.shape if tensor.size is None else tensor.size
    stride = tuple(s // values.itemsize for s in values.strides) if tensor.stride is None else tensor.stride
    hooks = asks_for("collections", "OrderedDict")
    arguments = (Raw(written(storage, []) + b"Q" + memo), tensor.offset, size, stride, False, hooks)
    return asks_for("torch._utils", "_rebuild_tensor_v2", *arguments).code


def zipped(value) -> bytes:
    """A file as PyTorch 1.6 and later write it."""
    tensors, file = [], io.BytesIO()
    code = b"\x80\x02" + written(value, tensors) + b"."
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", code)
        for number, values in enumerate(tensors):
            archive.writestr(f"m/data/{number}", values.tobytes())
        archive.writestr("m/version", "3\n")
    return file.getvalue()


def in_sequence(value) -> bytes:
    """A file as PyTorch up to 1.5 wrote it."""
    tensors = []
    code = b"\x80\x02" + written(value, tensors) + b"."
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    keys = pickle.dumps([str(i) for i in range(len(tensors))], 2)
    storages = b"".join(values.size.to_bytes(8, "little") + values.tobytes() for values in tensors)
    return b"".join(pickle.dumps(part, 2) for part in head) + code + keys + storages


def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that follow from the name, of a size at which a deep network neither dies nor explodes."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = 0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def shapes_of(arch: str, shape: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    """{our array: shape} of an architecture, without making it."""
    params = jax.eval_shape(lambda: build_model(arch, shape, classes, jax.random.key(0)).params)
    return {name: value.shape for name, value in params.items()}


def torch_arrays(arch: str, shape: tuple[int, ...], classes: int = 10) -> dict[str, np.ndarray]:
    """A state dict, as the published PyTorch version of an architecture has it, of `array`s."""
    ours = {k: s for k, s in shapes_of(arch, shape, classes).items() if not k.startswith("normalise/")}
    names = published(arch.partition("(")[0], ours, ())
    return {theirs: array(theirs, _turned(name, ours[name])) for name, theirs in names.items()}


def _turned(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name in ("class_token", "position"):
        return (1,) * (3 - len(shape)) + shape
    if not name.endswith("kernel"):
        return shape
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]


def save_tensors(path, arrays: dict[str, np.ndarray]) -> None:
    save_file(arrays, path)
