"""onnx("m.onnx"): an image classifier in the Open Neural Network Exchange format, as a differentiable function.

The file's weights are parameters, its graph is the program: two files of one graph share what is compiled. The batch
is one image. What the file takes is found from its input's sizes: [N, C, H, W], [N, H, W, C], the same without N, grey
[N, H, W], or flat pixels such as [1, 784] or [1, 784, 1].
Shapes: images [H, W, C] in [0, 1]; logits [classes].
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.models import files, onnx_file, onnx_graph
from robustbench_jax.models.onnx_operators import ChannelsLast
from robustbench_jax.registry import nearest, register
from robustbench_jax.types import Classifier, UserError, record

LAYOUTS = ("auto", "nchw", "nhwc", "flat")
CHANNELS = (1, 3, 4)
Shape = tuple[int, ...]


@register("pretrained", "onnx")
@record
class Onnx:
    """A classifier of images in an .onnx file.

    path: the file; its external data lie in the same folder. layout: the order of the file's pixels, "nchw", "nhwc"
    or "flat" (channel by channel; flat pixels with channels last are "nhwc"); "auto" finds it by the sizes. mean, std:
    (x - mean) / std by channel comes first; nothing does where the file normalises itself. output: the name of the
    output, or of any value in the graph, where there are several. shape: [H, W, C] where the file leaves it open.
    """

    path: str
    layout: str = "auto"
    mean: tuple | None = None
    std: tuple | None = None
    output: str | None = None
    shape: tuple | None = None

    def __post_init__(self):
        if self.layout not in LAYOUTS:
            raise UserError(f"onnx: layout = '{self.layout}'{nearest(self.layout, LAYOUTS)}")
        if self.shape is not None and (len(self.shape) != 3 or not all(type(n) is int and n > 0 for n in self.shape)):
            raise UserError(f"onnx: shape = {list(self.shape)} must be [H, W, C] in pixels")

    def load(self) -> tuple[Classifier, dict]:
        """Raises UserError for files, operators and shapes that cannot be read."""
        try:
            return self._load()
        except UserError as error:
            told = " ".join(str(error).splitlines())
            raise UserError(told if self.path in told else f"{self.path}: {told}") from error

    def _load(self) -> tuple[Classifier, dict]:
        graph = onnx_file.read(self.path, self.output)
        pixels = _pixels(graph, self.layout, self.shape)
        program, weights, out = _program(graph, pixels)
        classes = _classes(graph, out)
        normalisation = _normalisation(self.mean, self.std, pixels)
        params = {name: jnp.asarray(value) for name, value in (normalisation | weights).items()}
        classifier = Classifier(OnnxNet(program, pixels, bool(normalisation)), params)
        about = graph.about | {"graph": hashlib.sha256(repr(program).encode()).hexdigest()}
        return classifier, files.describe(classifier, "onnx", pixels.likely, classes, **about)


@dataclass(frozen=True)
class Pixels:
    """How an image becomes the input. sizes: the input's; image: [H, W, C], None where flat pixels leave it open."""

    sizes: Shape
    channels_first: bool
    image: Shape | None

    def __call__(self, x: jax.Array) -> jax.Array | ChannelsLast:
        """UserError for an image of another shape."""
        fits = x.shape == self.image if self.image else x.ndim == 3 and x.size == math.prod(self.sizes)
        if not fits:
            wanted = f"images {list(self.image)}" if self.image else f"{math.prod(self.sizes)} pixel values"
            raise UserError(f"the ONNX file takes {wanted}, as {list(self.sizes)}; got an image {list(x.shape)}")
        if self.channels_first and len(self.sizes) == 4 and self.image:
            return ChannelsLast(x[None])
        return (x.transpose(2, 0, 1) if self.channels_first else x).reshape(self.sizes)

    @property
    def likely(self) -> Shape:
        """The image's shape; of flat pixels the square that they may be."""
        if self.image:
            return self.image
        count = math.prod(self.sizes)
        for channels in (1, 3):
            side = math.isqrt(count // channels)
            if side * side * channels == count:
                return side, side, channels
        return 1, count, 1


@dataclass(frozen=True, eq=False)
class OnnxNet:
    """The program of a file, as a static function of its weights; equal to that of another file of the same graph."""

    program: onnx_graph.Program
    pixels: Pixels
    normalises: bool

    def __call__(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        """Logits of one image [H, W, C]."""
        if self.normalises:
            x = (x - params["normalise/mean"]) / params["normalise/std"]
        return self.program(params, self.pixels(x)).reshape(-1)

    @cached_property
    def _key(self) -> tuple:
        return self.program, self.pixels, self.normalises

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, OnnxNet) and self._hash == other._hash and self._key == other._key)


def _pixels(graph: onnx_file.Graph, layout: str, shape: Shape | None) -> Pixels:
    """From the sizes of the input. Rank 4 has a batch in front; so has a first size that is left open."""
    sizes, told = list(graph.sizes), f"{graph.path}: input '{graph.input}' {_shown(graph.sizes)}"
    if not 1 <= len(sizes) <= 4:
        raise UserError(f"{told} is no image: 1 to 4 dimensions are")
    batched = len(sizes) == 4 or (len(sizes) > 1 and sizes[0] is None) or (len(sizes) == 2 and sizes[0] != sizes[1])
    sizes[0] = 1 if batched else sizes[0]
    image = sizes[batched:]
    flat = layout == "flat" or sum(n != 1 for n in image) < 2
    first = layout in ("nchw", "flat") or (layout == "auto" and (flat or _is_first(image)))
    if None in image:
        if shape is None:
            raise UserError(f"{told} leaves sizes open: give shape=[H, W, C], or export the model with fixed sizes")
        image = _filled(image, flat, first, shape)
    sizes[batched:] = image
    if flat:
        found = shape
    elif len(image) == 2:
        found = (*image, 1)
    else:
        found = (*image[1:], image[0]) if first else tuple(image)
    if shape is not None and (found != shape or math.prod(shape) != math.prod(image)):
        raise UserError(f"{told} takes {_shown(found) if not flat else math.prod(image)}; not shape = {list(shape)}")
    return Pixels(tuple(sizes), first, found)


def _is_first(image: list) -> bool:
    """Whether three sizes are [C, H, W]: yes, unless only the last one is a number of channels."""
    return len(image) != 3 or image[0] in CHANNELS or image[-1] not in CHANNELS


def _filled(image: list, flat: bool, first: bool, shape: Shape) -> list:
    h, w, c = shape
    if flat:
        return [math.prod(shape) if n is None else n for n in image]
    full = ((c, h, w) if first else (h, w, c)) if len(image) == 3 else (h, w)
    return [b if a is None else a for a, b in zip(image, full, strict=True)]


def _shown(sizes: tuple) -> str:
    return f"[{', '.join('?' if n is None else str(n) for n in sizes)}]"


def _program(graph: onnx_file.Graph, pixels: Pixels) -> tuple:
    image = pixels.image or (1, math.prod(pixels.sizes), 1)
    x = jax.eval_shape(pixels, jax.ShapeDtypeStruct(image, np.float32))
    try:
        return onnx_graph.program(graph, x)
    except UserError as error:
        if len(graph.sizes) == 4 and graph.sizes[0] not in (None, 1):
            raise UserError(f"{error}; the file is for batches of {graph.sizes[0]}, export it for one image") from None
        raise


def _classes(graph: onnx_file.Graph, out: Shape) -> int:
    if sum(n != 1 for n in out) > 1:
        raise UserError(
            f"{graph.path}: '{graph.output}' is {list(out)} for one image; a classifier gives [1, classes]: "
            "choose a value with output="
        )
    return math.prod(out)


def _normalisation(mean: tuple | None, std: tuple | None, pixels: Pixels) -> dict[str, np.ndarray]:
    """No change where neither is given; one number is for all channels."""
    if mean is None and std is None:
        return {}
    found = {}
    for name, values in (("mean", (0,) if mean is None else mean), ("std", (1,) if std is None else std)):
        channels = pixels.image[-1] if pixels.image else len(values)
        if len(values) not in (1, channels) or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise UserError(f"onnx: {name} = {list(values)} must be one number or one for each of {channels} channels")
        if name == "std" and min(values) <= 0:
            raise UserError(f"onnx: std = {list(values)} must be greater than 0")
        found[f"normalise/{name}"] = np.array(values, np.float32)
    return found
