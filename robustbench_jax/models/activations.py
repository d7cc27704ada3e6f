"""What comes between layers: relu, tanh and others by name, with how fast each may change.

That tanh and its shifted and scaled siblings keep gradients short, which private training gains from: Papernot et al.,
AAAI 2021, arXiv:2007.14191.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from robustbench_jax.registry import nearest
from robustbench_jax.types import UserError

ACTIVATIONS: dict[str, Callable] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}
# The largest slopes there are: of silu 1.09984, of gelu 1.12891, rounded up.
STEEPEST = {"relu": 1.0, "tanh": 1.0, "sigmoid": 0.25, "elu": 1.0, "softplus": 1.0, "silu": 1.09985, "gelu": 1.12892}


def require_activation(owner: str, name: str) -> str:
    """The name. Raises UserError for one that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise UserError(f"{owner}: activation = {name!r}{nearest(name, ACTIVATIONS)}")
    return name
