"""torch_weights("m.pt", arch="resnet20", mean=[...], std=[...]): PyTorch weights in one of our architectures.

Every array of the architecture must be in the file under the name that the published PyTorch version gives it, with
its shape, and every array of the file must be used; the error lists all that are not. Convolutions turn from
[out, in, h, w] to [h, w, in, out]; the inputs of a dense layer after flattened images from channels first to last.
"""

import math
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from robustbench_jax.models import build_model, files, torch_files
from robustbench_jax.models.net import with_params
from robustbench_jax.models.torch_names import NAMES, SEQUENTIAL, in_order, published
from robustbench_jax.registry import build, entry, nearest, parse, register
from robustbench_jax.types import Classifier, UserError, record

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]
WRAPPERS = ("module.", "model.", "net.", "_orig_mod.", "1.")
LAYERS = ("normalize.", "normalise.", "normalizer.", "0.")  # where wrappers keep a mean and a deviation
MEANS = ("mu", "mean", *(f"{at}{name}" for at in LAYERS for name in ("mean", "mu", "new_mean")))
STDS = ("sigma", "std", *(f"{at}{name}" for at in LAYERS for name in ("std", "sigma", "new_std")))
SIDES = (32, 28, 64, 224)  # tried in this order where a sequential network leaves the size of the images open


@register("pretrained", "torch_weights")
@record
class TorchWeights:
    """A .pt, .pth, .th or .safetensors file in an architecture of ours.

    path: the file. arch: the call string of the architecture. mean, std: (x - mean) / std by channel comes first; those
    in the file (mu, sigma) where none are given, and no change where there are none. shape: [H, W, C] of the images
    where the weights leave it open. entry: which dictionary of the file, where it has several.
    """

    path: str
    arch: str
    mean: tuple | None = None
    std: tuple | None = None
    shape: tuple | None = None
    entry: str | None = None

    def load(self) -> tuple[Classifier, dict]:
        """Raises UserError for a file that cannot be read and for arrays that do not fit."""
        found = open_weights(self.path, self.arch, self.entry)
        return fit(found, _normalisation(found, self.mean, self.std), self.shape)


@dataclass(frozen=True)
class Found:
    """The arrays of a file and the architecture that they are for. ordered: they come as the layers do."""

    path: str
    arch: str
    arrays: Arrays
    ordered: bool

    @property
    def name(self) -> str:
        return parse(self.arch).name

    def layers(self, rank: int) -> list[str]:
        """The layers with a weight of that rank, in order: 4 convolutions, 2 dense ones."""
        named = [k for k, v in self.arrays.items() if k.endswith(".weight") and v.ndim == rank]
        return [k.removesuffix(".weight") for k in (named if self.ordered else sorted(named, key=_natural))]

    def weight(self, module: str) -> np.ndarray | None:
        """The weight of our module `stem`, `embed` or `head`, where the file has it."""
        if self.name in SEQUENTIAL:
            names = self.layers(2)[-1:] if module == "head" else self.layers(4)[:1]
        else:
            names = NAMES[self.name].outside[module]
        return next((self.arrays[f"{n}.weight"] for n in names if f"{n}.weight" in self.arrays), None)

    @property
    def classes(self) -> int:
        head = self.weight("head")
        return 10 if head is None or head.ndim != 2 else head.shape[0]

    def normalisation(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The mean and the standard deviation by channel that the file itself holds."""
        return tuple(
            next((self.arrays[k].reshape(-1) for k in names if k in self.arrays), None) for names in (MEANS, STDS)
        )


def open_weights(path: str, arch: str, where: str | None = None) -> Found:
    """The arrays of the file, named as in its network. Raises UserError for an unknown architecture or a bad file."""
    name = parse(arch).name
    known = [*NAMES, *SEQUENTIAL]
    if name not in known:
        entry("model", name)
        raise UserError(f"PyTorch's names for the layers of '{name}' are not known here{nearest(name, known)}")
    content, ordered = torch_files.read(path)
    return Found(path, arch, _unwrapped(torch_files.state_dict(content, path, where)), ordered)


def fit(found: Found, normalisation: tuple[tuple, tuple], shape: tuple | None = None) -> tuple[Classifier, dict]:
    """The classifier and its description. normalisation: mean and std, of one number or one a channel each."""
    shape = _shape(found, shape)
    empty = _empty(found.arch, shape, found.classes)
    ours = {k: tuple(v.shape) for k, v in empty.params.items() if not k.startswith("normalise/")}
    if found.name in SEQUENTIAL:
        theirs = in_order(found.name, ours, found.layers(4), found.layers(2))
    else:
        theirs = published(found.name, ours, found.arrays)
    _require_fit(found, ours, theirs, shape)
    params = {name: _ours(name, found.arrays[theirs[name]]) for name in ours}
    if found.name in SEQUENTIAL:
        first = next(k for k in (f"{SEQUENTIAL[found.name][1]}/0/kernel", "head/kernel") if k in ours)
        params[first] = _channels_last(params[first], _features(found.arch, shape, found.classes))
    for name, values in zip(("mean", "std"), normalisation, strict=True):
        params[f"normalise/{name}"] = _by_channel(name, values, shape[-1])
    classifier = with_params(empty, {name: jnp.asarray(value) for name, value in params.items()}, found.path)
    return classifier, files.describe(classifier, found.arch, shape, found.classes)


def _natural(name: str) -> list:
    """conv2 before conv10."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name)]


def _unwrapped(arrays: Arrays) -> Arrays:
    """Without counters, and without the prefixes that DataParallel and normalising wrappers leave."""
    arrays = {k: v for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
    for prefix in WRAPPERS * 2:
        own = [k for k in arrays if k not in (*MEANS, *STDS)]
        if own and all(k.startswith(prefix) for k in own):
            arrays = {k.removeprefix(prefix): v for k, v in arrays.items()}
    return arrays


def _normalisation(found: Found, mean: tuple | None, std: tuple | None) -> tuple:
    """What was given, else what the file holds, else no change. UserError where the two differ."""
    chosen = []
    for name, given, own, none in zip(("mean", "std"), (mean, std), found.normalisation(), ((0,), (1,)), strict=True):
        if given is not None and own is not None and not _same(given, own):
            raise UserError(f"{name} = {list(given)} is not that of {found.path}, {own.tolist()}; leave {name} out")
        chosen.append(given if given is not None else none if own is None else tuple(own.tolist()))
    return tuple(chosen)


def _same(given: tuple, own: np.ndarray) -> bool:
    return len(given) in (1, len(own)) and np.allclose(np.array(given, float), own, atol=1e-4)


def _by_channel(name: str, values: tuple, channels: int) -> np.ndarray:
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in values) or len(values) not in (1, channels):
        raise UserError(f"{name} = {list(values)} must be one number or one for each of {channels} channels")
    if name == "std" and min(values) <= 0:
        raise UserError(f"std = {list(values)} must be greater than 0")
    return np.broadcast_to(np.array(values, np.float32), channels).copy()


def _shape(found: Found, given: tuple | None) -> Shape:
    """[H, W, C] as given, or channels from the first layer and sides that fit the weights."""
    if given is not None:
        if len(given) != 3 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given):
            raise UserError(f"shape = {list(given)} must be [H, W, C] in pixels")
        return given
    if found.name in SEQUENTIAL:
        return _sequential_shape(found)
    first = found.weight("embed" if found.name == "vit_small" else "stem")
    first = np.zeros((1, 3, 16, 16)) if first is None or first.ndim != 4 else first
    side, places = NAMES[found.name].side, found.arrays.get("pos_embed")
    if found.name == "vit_small" and places is not None and places.ndim == 3:
        side = math.isqrt(places.shape[1] - 1) * first.shape[-1]
    return side, side, first.shape[1]


def _sequential_shape(found: Found) -> Shape:
    """Square images of a usual size, for which the first dense layer has as many inputs as in the file."""
    convolutions, dense = found.layers(4), found.layers(2)
    if not dense:
        return 32, 32, 3
    inputs = found.arrays[f"{dense[0]}.weight"].shape[1]
    all_channels = (found.arrays[f"{convolutions[0]}.weight"].shape[1],) if convolutions else (3, 1)
    tried = [(side, side, channels) for channels in all_channels for side in SIDES]
    for shape in tried:
        try:
            if math.prod(_features(found.arch, shape, found.classes)) == inputs:
                return shape
        except UserError:  # too small for the convolutions
            continue
    return tried[0]  # does not fit, and the error will say so


def _features(arch: str, shape: Shape, classes: int) -> Shape:
    """[H, W, C] of what a sequential architecture flattens."""

    def convolve(x):
        module = build("model", arch, shape=shape, classes=classes, rngs=nnx.Rngs(0))
        for layer in getattr(module, "convolutions", ()):
            x = layer(x)
        return x

    return jax.eval_shape(convolve, jax.ShapeDtypeStruct(shape, jnp.float32)).shape


def _empty(arch: str, shape: Shape, classes: int) -> Classifier:
    """A model whose arrays are shapes only."""
    made = []

    def make():
        made.append(build_model(arch, shape, classes, jax.random.key(0)))
        return made[0].params

    shapes = jax.eval_shape(make)
    return made[0].replace(params=shapes)


def _require_fit(found: Found, ours: dict[str, Shape], theirs: dict[str, str], shape: Shape) -> None:
    """One UserError with every array that is missing, unused, of another shape, or not finite."""
    arrays, used = found.arrays, set(theirs.values())
    idle = () if found.name in SEQUENTIAL else NAMES[found.name].idle
    faults = {
        "missing": [f"'{key}'" for key in theirs.values() if key not in arrays],
        "unused": [f"'{k}'" for k in arrays if not (k in used or k in (*MEANS, *STDS) or k.startswith(idle))],
        "of another shape": [
            f"'{key}' is {list(arrays[key].shape)}, not {list(_theirs(name, ours[name]))}"
            for name, key in theirs.items()
            if key in arrays and arrays[key].shape != _theirs(name, ours[name])
        ],
        "not finite": [f"'{key}'" for key in theirs.values() if key in arrays and not np.isfinite(arrays[key]).all()],
    }
    if any(faults.values()):
        told = "; ".join(f"{fault}: {', '.join(keys)}" for fault, keys in faults.items() if keys)
        raise UserError(f"{found.path} does not fit {found.arch} for images {list(shape)}: {told}")


def _theirs(name: str, shape: Shape) -> Shape:
    """The shape in PyTorch of an array of ours."""
    if name in ("class_token", "position"):
        return (1,) * (3 - len(shape)) + shape
    if not name.endswith("/kernel"):
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _ours(name: str, value: np.ndarray) -> np.ndarray:
    value = np.asarray(value, np.float32)
    if name in ("class_token", "position"):
        return value[0, 0] if name == "class_token" else value[0]
    if not name.endswith("/kernel"):
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _channels_last(kernel: np.ndarray, features: Shape) -> np.ndarray:
    """Rows [C H W, out] -> rows [H W C, out]."""
    h, w, c = features
    return kernel.reshape(c, h, w, -1).transpose(1, 2, 0, 3).reshape(h * w * c, -1)
