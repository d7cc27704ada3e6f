"""Bodies of requests: read up to a limit, then decoded into images and checked, whatever they are.

JSON is {"images": [...], "dtype": "float32"}, one image [D] or several [N, D], as numbers in [0, 1], or whole ones from
0 to 255 with "dtype": "uint8". application/octet-stream is what numpy.save writes: version 1 to 3, uint8, float32 or
float64. Its header is read by a pattern and not evaluated, and no array is made that the body does not hold.
Shapes: N images, D = [H, W, C] input shape.
"""

import asyncio
import json
import math
import re
from typing import Any

import numpy as np
from starlette.requests import Request

from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import nearest
from robustbench_jax.serving.problems import Problem

JSON, NPY = "application/json", "application/octet-stream"
DTYPES = {"uint8": "|u1", "float32": "<f4", "float64": "<f8"}
MAGIC = re.compile(rb"\x93NUMPY([\x01-\x03])\x00", re.DOTALL)
HEADER = re.compile(
    rb"\{'descr': '([^']{1,8})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,9}, ?)*\d{0,9})\),? ?\}\s*"
)
LONGEST_HEADER = 1024


def kind_of(request: Request) -> str:
    """JSON or NPY. Problem 415 for any other type."""
    given = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if given not in (JSON, NPY):
        raise Problem(415, "type", f"content-type {given[:80]!r}: send {JSON}, or {NPY} for what numpy.save writes")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem(415, "type", "bodies are not to be compressed: leave out content-encoding")
    return given


async def read(request: Request, most: int, seconds: float) -> bytes:
    """The body. Problem 413 for more than `most` bytes, before any is read where its length is announced, else at the
    byte that is too many; 408 where it takes longer than `seconds`.
    """
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > most):
        raise _too_large(most)
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise _too_large(most)
                parts.append(part)
    except TimeoutError:
        raise Problem(408, "slow", f"the body took longer than {seconds:g} s") from None
    return b"".join(parts)


def images(kind: str, body: bytes, shape: tuple[int, ...], most: int) -> np.ndarray:
    """float32 [N, D] in [0, 1], of 1 to `most` images of this shape. Problem 413 for more of them, 422 for anything
    else that is wrong.
    """
    x = _npy(body) if kind == NPY else _json(body)
    x = x[None] if x.ndim == len(shape) else x
    if x.ndim != len(shape) + 1 or x.shape[1:] != shape:
        raise _wrong(f"shape {list(x.shape)}: one image is {list(shape)}, several are {['N', *shape]}".replace("'", ""))
    if not 1 <= len(x) <= most:
        raise Problem(413 if len(x) else 422, "count", f"{len(x)} images: a request has 1 to {most}")
    if x.dtype == np.uint8:
        return as_unit(x)
    if not np.isfinite(x).all():
        raise _wrong("images hold NaN or infinity")
    if x.min() < 0 or x.max() > 1:
        raise _wrong(f"values from {x.min():.6g} to {x.max():.6g}: they must be in [0, 1], or uint8")
    return np.ascontiguousarray(x, np.float32)


def _json(body: bytes) -> np.ndarray:
    try:
        content = json.loads(body.decode(), parse_constant=_no_number)
    except RecursionError:
        raise _wrong("the JSON is nested too deeply") from None
    except ValueError as error:
        raise _wrong(f"no JSON: {_line(error)}") from None
    if not isinstance(content, dict):
        raise _wrong('the JSON must be an object: {"images": [...]}')
    for name in content:
        if name not in ("images", "dtype"):
            raise _wrong(f"no member {name[:40]!r}{nearest(name[:40], ('images', 'dtype'))}")
    if "images" not in content:
        raise _wrong('the JSON must have "images"')
    return _numbers(content["images"], content.get("dtype", "float32"))


def _numbers(values: Any, dtype: Any) -> np.ndarray:
    if dtype not in ("float32", "uint8"):
        raise _wrong(f"dtype {str(dtype)[:40]!r}{nearest(str(dtype)[:40], ('float32', 'uint8'))}")
    try:
        x = np.asarray(values)
    except (ValueError, RecursionError):
        raise _wrong("images must be lists of equal lengths") from None
    if x.dtype.kind not in "iuf":
        raise _wrong("images must be lists of numbers")
    if dtype == "float32":
        return x.astype(np.float64)
    if x.dtype.kind == "f" or (x.size and (x.min() < 0 or x.max() > 255)):
        raise _wrong("uint8 is for whole numbers from 0 to 255")
    return x.astype(np.uint8)


def _npy(body: bytes) -> np.ndarray:
    magic = MAGIC.match(body)
    if not magic:
        raise _wrong("the body is not what numpy.save writes")
    size = 2 if magic[1] == b"\x01" else 4
    length = int.from_bytes(body[8 : 8 + size], "little")
    start = 8 + size + length
    found = HEADER.fullmatch(body[8 + size : start]) if length <= LONGEST_HEADER and start <= len(body) else None
    if not found:
        raise _wrong("the header of the array is cut short, or not one that numpy.save writes for numbers")
    dtype, fortran, sizes = found[1].decode("latin-1"), found[2] == b"True", found[3].decode()
    if dtype not in DTYPES.values():
        raise _wrong(f"an array of type {dtype!r}: send uint8, float32 or float64, little-endian")
    shape = tuple(int(size) for size in sizes.replace(" ", "").split(",") if size)
    if math.prod(shape) * np.dtype(dtype).itemsize != len(body) - start:
        raise _wrong(f"an array {list(shape)} of type {dtype!r} does not have {len(body) - start} bytes")
    return np.frombuffer(body, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number that JSON has")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _wrong(what: str) -> Problem:
    return Problem(422, "input", what)


def _too_large(most: int) -> Problem:
    return Problem(413, "size", f"the body has more than {most} bytes")
