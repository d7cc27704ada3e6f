"""Net: a flax nnx architecture as a static, hashable function of a flat dictionary of arrays.

Two models of one architecture have equal Nets, whatever their weights, so that they share compiled programs.
Shapes: D input shape, B batch, C classes.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from flax import nnx

from robustbench_jax.types import Classifier, UserError

Params = dict[str, jax.Array]


@dataclass(frozen=True, eq=False)
class Net:
    """inference and training: the module's graph in either mode; weights: the names that training updates by
    gradients. All other arrays are statistics (batch norm) or constants (normalisation).
    """

    inference: nnx.GraphDef
    training: nnx.GraphDef
    weights: frozenset[str]

    @classmethod
    def split(cls, module: nnx.Module) -> tuple["Net", Params]:
        """The Net of a freshly made module, and its arrays by path: {"conv/0/kernel": ...}."""
        trained = set(flat(nnx.state(module, nnx.Param)))
        module.train()
        training, _ = nnx.split(module)
        module.eval()
        inference, state = nnx.split(module)
        return cls(inference, training, frozenset(trained)), flat(state)

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        """Logits of one image [D] or of a batch [B, D]."""
        return self.module(params)(x)

    def layer_inputs(self, params: Params, x: jax.Array) -> tuple[jax.Array, ...]:
        """What each member of the network's lists (hidden layers, blocks) is called with, in the order of the calls,
        and last what its `head` is: the features. Of one image or of a batch, as in a call. Where the network is one
        behind something that is not trained, its `model`, they are that one's.
        """
        seen = []

        def note(number: int, x: jax.Array) -> jax.Array:
            seen.append(x)
            return x

        self.tapped(params, x, note)
        return tuple(seen)

    def tapped(self, params: Params, x: jax.Array, tap: Callable[[int, jax.Array], jax.Array]) -> jax.Array:
        """As a call, in which each layer (see `layer_inputs`) gets tap(which call it is, from 0; its input) instead."""
        numbers, module = itertools.count(), self.module(params)
        inner = module
        while isinstance(getattr(inner, "model", None), nnx.Module):
            inner = inner.model
        for name, part in list(vars(inner).items()):
            if name == "head" or isinstance(part, nnx.List):
                wrapped = _tapped(part, lambda x: tap(next(numbers), x))
                object.__setattr__(inner, name, wrapped)  # past nnx's checks: this module ends here
        return module(x)

    def module(self, params: Params) -> nnx.Module:
        """The architecture in inference mode with these arrays."""
        return nnx.merge(self.inference, _nested(params))

    def train(self, params: Params, x: jax.Array, key: jax.Array) -> tuple[jax.Array, Params]:
        """Logits [B, C] in training mode and the parameters with their statistics moved on. The key feeds dropout."""
        module = nnx.merge(self.training, _nested(params))
        nnx.reseed(module, dropout=key)
        logits = module(x)
        return logits, params | {k: v for k, v in flat(nnx.state(module)).items() if k not in self.weights}

    def statistics(self, params: Params, x: jax.Array, key: jax.Array) -> Params:
        """Batch norm's statistics of the images x [B, D] alone, in training mode; empty where there is none."""
        module = nnx.merge(self.training, _nested(params))
        nnx.reseed(module, dropout=key)
        for _, node in nnx.iter_graph(module):
            if isinstance(node, nnx.BatchNorm):
                node.momentum = 0.0  # the weight of what was there before
        module(x)
        return flat(nnx.state(module, nnx.BatchStat))

    def trainable(self, params: Params) -> Params:
        return {name: value for name, value in params.items() if name in self.weights}

    @cached_property
    def _hash(self) -> int:
        return hash((self.inference, self.weights))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Net)
            and self._hash == other._hash
            and self.inference == other.inference
            and self.weights == other.weights
        )


def count(classifier: Classifier) -> int:
    """The number of trained parameters."""
    return sum(int(np.prod(value.shape)) for value in classifier.net.trainable(classifier.params).values())


def with_params(classifier: Classifier, params: Params, source: str) -> Classifier:
    """The classifier with other arrays. Raises UserError, naming `source`, unless names and shapes agree."""
    expected, got = ({k: tuple(v.shape) for k, v in p.items()} for p in (classifier.params, params))
    for name in expected | got:
        if expected.get(name) != got.get(name):
            raise UserError(
                f"{source} does not fit the architecture: '{name}' is {got.get(name, 'missing')}, "
                f"{expected.get(name, 'nothing')} is expected"
            )
    return classifier.replace(params=params)


def _tapped(part: nnx.Module, tap: Callable[[jax.Array], jax.Array]) -> Any:
    """A part, or the parts of a list, whose inputs pass the tap."""
    if isinstance(part, nnx.List):
        return [_tapped(each, tap) for each in part]
    return lambda x: part(tap(x))


def flat(state: nnx.State) -> Params:
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state))
    return {"/".join(str(step.key) for step in path): leaf for path, leaf in leaves}


def _nested(params: Params) -> dict:
    tree: dict = {}
    for name, value in params.items():
        *outer, last = [int(step) if step.isdigit() else step for step in name.split("/")]
        node = tree
        for step in outer:
            node = node.setdefault(step, {})
        node[last] = value
    return tree
