"""certify --vnnlib: a specification file and an ONNX file to a verdict, and the verdict as VNN-COMP writes it."""

import json
from pathlib import Path

import jax
import numpy as np

from robustbench_jax.certify import vnnlib
from robustbench_jax.certify.verify import Verdict, verify
from robustbench_jax.models.onnx_model import Onnx, Pixels
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build, parse
from robustbench_jax.types import UserError

TIMEOUT = 300.0  # seconds; what VNN-COMP gives at most


def verify_files(
    specification: str | Path, model: str, timeout: float | None = None, *, seed: int = 0, runtime: Runtime = Runtime()
) -> tuple[Verdict, np.ndarray | None]:
    """(the verdict, its counterexample float32[D] in the order of the file's inputs X_0, X_1, ...).

    model: a call string onnx("m.onnx"); the specification is about that file's own input. Raises UserError for any
    other model, for files that cannot be read or do not fit, and for networks in double precision.
    """
    if parse(model).name != "onnx":
        raise UserError(f"--vnnlib: model = '{model}' must be an ONNX file, onnx(\"m.onnx\")")
    made: Onnx = build("pretrained", model)
    if made.mean is not None or made.std is not None:
        raise UserError("--vnnlib: the specification is about the file's own input; leave out mean and std")
    read = vnnlib.read(specification)
    classifier, about = made.load()
    if about["input"] == "double":
        raise UserError(
            f"{made.path} computes in float64, and all is float32 here: the verdict would be about another network"
        )
    pixels = classifier.net.pixels
    order = places(pixels)
    if len(order) != read.inputs:
        raise UserError(f"{specification} has {read.inputs} inputs X_i, {made.path} {len(order)}")
    found = verify(
        jax.random.key(seed),
        classifier,
        read.arranged(order),
        shape=pixels.likely,
        timeout=TIMEOUT if timeout is None else timeout,
        runtime=runtime,
    )
    return found, None if found.counterexample is None else found.counterexample.reshape(-1)[order]


def places(pixels: Pixels) -> np.ndarray:
    """int [D]: where in the image [H, W, C] each entry of the file's input is, both flat."""
    image = np.arange(np.prod(pixels.likely)).reshape(pixels.likely)
    return (image.transpose(2, 0, 1) if pixels.channels_first else image).reshape(-1)


def as_text(verdict: Verdict, x: np.ndarray | None) -> str:
    """The status, and for "sat" the counterexample in VNN-COMP's form."""
    if x is None:
        return verdict.status
    # float64 writes out the float32 number: its shortest form, read again, may lie outside of the box
    values = [f"(X_{i} {float(v)!r})" for i, v in enumerate(x)]
    values += [f"(Y_{i} {float(v)!r})" for i, v in enumerate(verdict.logits)]
    return f"{verdict.status}\n({chr(10).join(values)})"


def as_json(verdict: Verdict, x: np.ndarray | None) -> str:
    """One object; `lower` is null where nothing is proved of a case, and where its box is empty."""
    return json.dumps(
        {
            "status": verdict.status,
            "seconds": verdict.seconds,
            "counterexample": None if x is None else {"X": _floats(x), "Y": _floats(verdict.logits)},
            "lower": [float(v) if np.isfinite(v) else None for v in verdict.lower],
        }
    )


def _floats(values: np.ndarray) -> list[float]:
    return [float(v) for v in values]
