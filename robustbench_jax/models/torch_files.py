"""Arrays from PyTorch's files (.pt, .pth, .th) and .safetensors, without PyTorch and without running what they say.

A .pt file is a pickle, and a pickle is a program. This one is read instruction by instruction first: any instruction
that PyTorch does not write for a state dict is refused, and so is every global but those in ALLOWED, which stand for
functions of this file. What a file may make is therefore numbers, texts, lists, dictionaries and views of the storages
in the same file, each within its bounds.

Formats: the zip archive (PyTorch 1.6 on) and the sequence of pickles before it (0.1.10 to 1.5), both of them little
endian; safetensors. Half precision and bfloat16 become float32 in `read`.
"""

import io
import math
import pickle
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from robustbench_jax.types import UserError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}
SAFETENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
REFUSED = {"EXT1", "EXT2", "EXT4", "INST", "OBJ", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER", "NEWOBJ_EX"}
NAMES = ("state_dict", "model_state_dict", "model", "net")
DEPTH = 4  # how deep in dictionaries a state dict may lie


@dataclass
class Storage:
    """A run of numbers in the file; `data` is filled in when the pickle has been read."""

    key: str
    dtype: Any
    count: int
    data: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes a storage")  # as the instruction BUILD would


@dataclass(frozen=True)
class View:
    """A tensor: a storage, where in it the tensor starts, and sizes and strides in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes a tensor")

    def array(self) -> np.ndarray:
        whole = (self.offset, *self.size, *self.stride)
        if not all(isinstance(n, int) and n >= 0 for n in whole) or len(self.size) != len(self.stride):
            raise ValueError("the sizes and strides of a tensor are no whole numbers, or not as many")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        count = math.prod(self.size)
        if count > self.storage.count or (count and last >= self.storage.count):
            raise ValueError(f"a tensor of {self.size} is larger than its storage of {self.storage.count}")
        steps = tuple(step * self.storage.data.itemsize for step in self.stride)
        start = self.storage.data[self.offset :] if count else self.storage.data
        return np.array(np.lib.stride_tricks.as_strided(start, self.size, steps, writeable=False))


class Ignored:
    """What a checkpoint holds beside its tensors (a NumPy number, a dtype): made, and never looked at."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any) -> "Ignored":
        return self


class Table(dict):
    """An OrderedDict, with room for the attributes that PyTorch gives a state dict."""


@dataclass(frozen=True)
class _Type:
    """A storage class by its name."""

    dtype: Any


def _view(storage: Storage, offset: int, size: tuple, stride: tuple, *rest: Any) -> View:
    return View(storage, offset, tuple(size), tuple(stride))


ALLOWED = {
    ("torch._utils", "_rebuild_tensor"): lambda: lambda *args: _view(*args),
    ("torch._utils", "_rebuild_tensor_v2"): lambda: lambda *args: _view(*args),
    ("torch._utils", "_rebuild_parameter"): lambda: lambda data, *rest: data,
    ("torch", "Size"): lambda: lambda *args: tuple(*args),
    ("collections", "OrderedDict"): lambda: lambda *args: Table(*args),
    ("collections", "defaultdict"): lambda: lambda *args: Table(),
    ("collections", "Counter"): lambda: Ignored(),
    ("__builtin__", "dict"): lambda: Ignored(),  # protocol 2 has Python 2's names
    ("__builtin__", "set"): lambda: Ignored(),
    ("torch", "device"): lambda: Ignored(),
    ("numpy", "dtype"): lambda: Ignored(),
    ("numpy.core.multiarray", "scalar"): lambda: Ignored(),
    ("numpy._core.multiarray", "scalar"): lambda: Ignored(),
    ("_codecs", "encode"): lambda: Ignored(),
}
ALLOWED |= {
    (module, f"{name}Storage"): lambda dtype=dtype: _Type(dtype)
    for module in ("torch", "torch.cuda")
    for name, dtype in STORAGES.items()
}
ALLOWED |= {
    ("torch", name): lambda: Ignored()
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "strided")
}


def read(path: str) -> tuple[dict[str, Any], bool]:
    """What a file holds, tensors as arrays (floats as float32), and whether its order is that of the layers.

    Raises UserError for a file that is missing, cut short, foreign or hostile; nothing in it is executed.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        if content[:2] == b"PK":
            return _arrays(_read_zip(content), 16 * len(content)), True
        if content[:1] == b"\x80":
            return _arrays(_read_sequence(content), 16 * len(content)), True
        if content[8:9] == b"{":
            return _read_safetensors(content), False
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except Exception as error:  # a broken pickle can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is cut short or damaged: {reason}") from None
    raise UserError(f"{path} is neither a PyTorch file (.pt, .pth, .th) nor .safetensors")


def state_dict(content: dict[str, Any], path: str, entry: str | None = None) -> dict[str, np.ndarray]:
    """The one dictionary of tensors in what a file holds: at `entry`, under a usual name, or the only one.

    Raises UserError where there is none, or several and no `entry` says which.
    """
    found = dict(_dictionaries(content))
    if entry is not None:
        if entry not in found:
            raise UserError(f"{path} has no state dict '{entry}'; it has: {', '.join(map(repr, found)) or 'none'}")
        return found[entry]
    usual = [name for name in found if not name or name.split("/")[-1] in NAMES]
    if len(found) > 1 and not usual:
        raise UserError(f"{path} holds several state dicts; choose one with entry=: {', '.join(map(repr, found))}")
    if not found:
        raise UserError(f"{path} holds no state dict (a dictionary of tensors)")
    usual.sort(key=lambda name: NAMES.index(name.split("/")[-1]) if name else -1)
    return found[(usual or list(found))[0]]


def _dictionaries(content: Any):
    """(name, tensors) for every dictionary with tensors in it; nested names are joined by slashes."""
    seen: set[int] = set()

    def walk(value: Any, name: str):
        if not isinstance(value, dict) or id(value) in seen or name.count("/") > DEPTH:
            return []
        seen.add(id(value))
        tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, np.ndarray)}
        named = [(f"{name}/{k}" if name else k, v) for k, v in value.items() if isinstance(k, str)]
        inner = [pair for k, v in named for pair in walk(v, k)]
        largest = max((len(more) for _, more in inner), default=0)
        return [(name, tensors)] * (len(tensors) > largest) + inner  # the best accuracy lies beside a state dict

    return walk(content, "")


def _read_zip(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in records:
            raise UserError("is a zip archive without data.pkl, so no PyTorch file")
        if any(info.compress_type != zipfile.ZIP_STORED for info in records.values()):
            raise UserError("has compressed records, which PyTorch does not write")
        if sum(info.file_size for info in archive.infolist()) > len(content):
            raise UserError("has records that are larger than the file, or that overlap, so it is refused")
        if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
            raise UserError("is big endian; save it on a little-endian machine")
        result, storages = _unpickle(io.BytesIO(archive.read(records["data.pkl"])))
        for storage in storages.values():
            _fill(storage, archive.read(records[f"data/{storage.key}"]))
    return result


def _read_sequence(content: bytes) -> Any:
    file = io.BytesIO(content)
    if _unpickle(file)[0] != MAGIC:
        raise UserError("is a plain pickle and not what torch.save writes; save model.state_dict() with torch.save")
    if _unpickle(file)[0] != PROTOCOL or not _unpickle(file)[0].get("little_endian"):
        raise UserError("is of an unknown version or big endian; save it again with a current PyTorch")
    result, storages = _unpickle(file)
    keys, _ = _unpickle(file)
    for key in keys:
        storage = storages[key]
        if int.from_bytes(_take(file, 8), "little") != storage.count:
            raise ValueError(f"storage {key} has another length than the tensors say")
        _fill(storage, _take(file, storage.count * np.dtype(storage.dtype).itemsize))
    return result


def _take(file: io.BytesIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ValueError(f"{count - len(data)} bytes are missing at the end")
    return data


def _fill(storage: Storage, data: bytes) -> None:
    if len(data) != storage.count * np.dtype(storage.dtype).itemsize:
        raise ValueError(f"storage {storage.key} has {len(data)} bytes, not {storage.count} elements")
    storage.data = np.frombuffer(data, storage.dtype)


def _unpickle(file: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """The next object of the file, and the storages that it names."""
    start = file.tell()
    for instruction, argument, _ in pickletools.genops(file):
        if instruction.name in REFUSED:
            raise UserError(f"is no state dict: it uses the pickle instruction {instruction.name}; nothing was run")
        if "PUT" in instruction.name and argument is not None and argument > file.getbuffer().nbytes:
            raise ValueError(f"it numbers an object {argument}")
    file.seek(start)
    reader = _Reader(file)
    return reader.load(), reader.storages


class _Reader(pickle.Unpickler):
    """Makes numbers, texts, containers, and what ALLOWED stands for; anew for each file, so that none can be changed
    by another.
    """

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(
                f"asks for {module}.{name}, which no state dict needs, so it is refused and nothing was run; "
                "save model.state_dict() alone"
            )
        return ALLOWED[module, name]()

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or pid[:1] != ("storage",) or not isinstance(pid[1], _Type):
            raise UserError("holds a whole module or an unknown object, not a state dict; save model.state_dict()")
        if not isinstance(pid[2], str | int) or not isinstance(pid[4], int):
            raise ValueError("a storage has no name or no length")
        key, count = str(pid[2]), pid[4]
        if len(pid) > 5 and pid[5] is not None:
            raise UserError("has views of storages as PyTorch wrote them before 0.4; save it again")
        return self.storages.setdefault(key, Storage(key, pid[1].dtype, count))


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    found = {}
    for name, tensor in safetensors.deserialize(content):
        if tensor["dtype"] not in SAFETENSORS:
            raise UserError(f"has '{name}' as {tensor['dtype']}, which is not supported")
        found[name] = _plain(np.frombuffer(tensor["data"], SAFETENSORS[tensor["dtype"]]).reshape(tensor["shape"]))
    return found


def _arrays(value: Any, room: int) -> Any:
    """The same with every tensor in dictionaries as an array; each object once, however often the file repeats it.

    room: how many bytes of arrays there may be; a small file can describe more than there is memory.
    """
    made: dict[int, Any] = {}

    def convert(it: Any, depth: int) -> Any:
        nonlocal room
        if id(it) in made or not isinstance(it, View | dict) or not depth:
            return made.get(id(it), it)
        if isinstance(it, View):
            room -= 4 * math.prod(it.size)
            if room < 0:
                raise UserError("describes far more numbers than it holds, so it is refused")
            made[id(it)] = _plain(it.array())
        else:
            made[id(it)] = {k: convert(v, depth - 1) for k, v in it.items()}
        return made[id(it)]

    return convert(value, DEPTH + 1)


def _plain(array: np.ndarray) -> np.ndarray:
    """Floats of any precision as float32."""
    return array if array.dtype.kind in "iub" else array.astype(np.float32)
