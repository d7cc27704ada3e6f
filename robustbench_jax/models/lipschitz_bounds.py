"""How fast the logits of a network may change at most: upper bounds in float64, from its weights.

A power iteration that has not converged gives a lower bound of a norm, so none is used. Networks that are 1-Lipschitz
by construction say so of each layer (models/lipschitz_layers.py); for `cnn` and `mlp` the norms of the layers
and the steepest slopes of what is between them are multiplied (Szegedy et al., 2014, arXiv:1312.6199), which is sound
and loose.
Shapes: I inputs of the last layer, C classes, kernel [h, w, I, O].
"""

import math

import numpy as np
from flax import nnx

from robustbench_jax.models.activations import STEEPEST
from robustbench_jax.models.blocks import Conv, Dense
from robustbench_jax.models.cnn import CNN
from robustbench_jax.models.lipschitz import Lipschitz
from robustbench_jax.models.mlp import MLP
from robustbench_jax.types import Classifier, UserError

SAFE = 1 + 1e-9  # float64 sums and singular values are exact to far less
KNOWN = "lipschitz_cnn, lipschitz_mlp, cnn and mlp"


def pair_constants(classifier: Classifier) -> np.ndarray:
    """float64 [C, C]: an upper bound of how fast f_i - f_j changes, in L2, over all images.

    Raises UserError for an architecture whose constant is not known.
    """
    module = classifier.net.module(classifier.params) if hasattr(classifier.net, "module") else None
    if not isinstance(module, Lipschitz | CNN | MLP):
        what = type(module or classifier.net).__name__
        raise UserError(f"lipschitz: no constant is known of {what}; it is of {KNOWN}")
    if isinstance(module, Lipschitz):
        rows, before = np.asarray(module.head.rows(), np.float64), module.before_head()
    else:
        rows, before = np.asarray(module.head.kernel[...], np.float64), _product(module)
    apart = np.linalg.norm(rows[:, :, None] - rows[:, None, :], axis=0)
    return SAFE * before * apart


def _product(module: CNN | MLP) -> float:
    std = np.abs(np.asarray(module.normalise.std[...], np.float64)).min()
    hidden = [*module.convolutions, *module.dense] if isinstance(module, CNN) else module.hidden
    return math.prod(STEEPEST[module.activation] * layer_norm(layer) for layer in hidden) / float(std)


def layer_norm(layer: nnx.Module) -> float:
    """An upper bound of the L2 norm of a dense or convolutional layer."""
    kernel = np.asarray(layer.kernel[...], np.float64)
    if isinstance(layer, Dense):
        return SAFE * float(np.linalg.norm(kernel, 2))
    if isinstance(layer, Conv):
        return SAFE * conv_norm(kernel, layer.stride)
    raise UserError(f"lipschitz: no norm is known of {type(layer).__name__}")


def conv_norm(kernel: np.ndarray, stride: int = 1) -> float:
    """The smaller of two upper bounds of a convolution's norm, whatever its padding with zeros.

    sqrt(||A||_1 ||A||_inf): a row of A has the entries of one output channel, a column those of one input channel whose
    places differ by multiples of the stride. And no pixel is in more than ceil(h / stride) ceil(w / stride) windows,
    each of which is multiplied by the kernel as one matrix.
    """
    height, width, ins, outs = kernel.shape
    row = np.abs(kernel).sum((0, 1, 2)).max()
    phases = [(a, b) for a in range(min(stride, height)) for b in range(min(stride, width))]
    column = max(np.abs(kernel[a::stride, b::stride]).sum((0, 1, 3)).max() for a, b in phases)
    windows = -(-height // stride) * -(-width // stride)
    as_matrix = np.linalg.norm(kernel.reshape(height * width * ins, outs), 2)
    return float(min(math.sqrt(row * column), math.sqrt(windows) * as_matrix))
