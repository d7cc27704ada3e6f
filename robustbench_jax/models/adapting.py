"""Adapting: a network whose batch norm takes its statistics, in part, from the images that it is shown.

Reference: Schneider et al., NeurIPS 2020, arXiv:2006.16971. Of n images shown together the mean and variance of each
layer are mixed with those of training, N / (N + n) of the latter; each layer sees what the layers before it then make.
Shapes: D input shape, C classes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.models.net import Net, flat


@dataclass(frozen=True)
class Adapting:
    """net of a Classifier with params (the inner net's, N). Alone it is the inner net; `adapted` makes the params for
    images that are shown together, at most `together` of them.
    """

    inner: Net
    together: int

    def twin(self, params: tuple) -> tuple[Net, Any]:
        return self.inner, params[0]

    def __call__(self, params: tuple, x: jax.Array) -> jax.Array:
        return self.inner(params[0], x)

    def adapted(self, params: tuple, x: jax.Array) -> tuple:
        """The params with the statistics of images x [n, D] mixed in."""
        return _adapted(self.inner, *params, x), params[1]


@partial(jax.jit, static_argnums=0)
def _adapted(net: Net, params: Any, prior: jax.Array, x: jax.Array) -> Any:
    module = net.module(params)
    norms = [(parent, name, child) for parent, name, child in children(module) if isinstance(child, nnx.BatchNorm)]
    for parent, name, norm in norms:
        _put(parent, name, Mixing(norm, prior / (prior + len(x))))
    module(x)
    for parent, name, norm in norms:
        _put(parent, name, norm)
    return params | {name: value for name, value in flat(nnx.state(module)).items() if name not in net.weights}


class Mixing(nnx.Module):
    """Batch norm that keeps a share of its statistics, takes the rest from its input, and normalises by both."""

    def __init__(self, norm: nnx.BatchNorm, share: jax.Array):
        self.norm, self.share = norm, nnx.Variable(share)

    def __call__(self, x: jax.Array) -> jax.Array:
        axes, share, norm = tuple(range(x.ndim - 1)), self.share[...], self.norm
        norm.mean[...] = share * norm.mean[...] + (1 - share) * jnp.mean(x, axes)
        norm.var[...] = share * norm.var[...] + (1 - share) * jnp.var(x, axes)
        return norm(x)


def children(module: nnx.Module) -> list[tuple[Any, Any, nnx.Module]]:
    """(parent, attribute or index, child) of all modules within a module, lists of modules unfolded."""
    found = []
    items = enumerate(module) if isinstance(module, nnx.List) else vars(module).items()
    for name, child in list(items):
        if isinstance(child, nnx.Module):
            found += [(module, name, child), *children(child)]
    return found


def _put(parent: Any, name: Any, child: nnx.Module) -> None:
    if isinstance(parent, nnx.List):
        parent[name] = child
    else:
        setattr(parent, name, child)
