"""gradient_canaries(share, bound): gradients of known directions, added to a private training's sums, and looked for.

References: Nasr et al., USENIX Security 2023, arXiv:2302.07956 (tight audits see every step); Steinke, Nasr &
Jagielski, NeurIPS 2023, arXiv:2305.08846, whose canaries are these: the gradient of canary i is `clip`, the most that
clipping leaves of any, in a weight of its own and 0 in all others. Each canary is in by one coin, and
drawn in every step as an image is. The auditor knows all the rest of a sum, as the guarantee supposes of an adversary;
what is left at a canary's place is x ~ N(0, noise^2), or with probability q N(1, noise^2) where it is in. The score is
the likelihood ratio, the sum over steps of log(1 - q + q exp((x - 1/2) / noise^2)).
Shapes: m canaries.
"""

from typing import Any

import jax
import numpy as np

from robustbench_jax.attacks.privacy.one_run_audit import OneRunAudit
from robustbench_jax.ops.accounting import Guarantee
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


class Witness:
    """What is put into the sums of a training, and what is seen of them: scores [m]. included bool [m]; the key says
    which weights are whose.
    """

    def __init__(self, key: jax.Array, included: np.ndarray):
        self.key, self.included, self.seen, self.steps = key, included, np.zeros(len(included)), 0
        self.places: dict[str, tuple[np.ndarray, np.ndarray]] | None = None
        self.known: dict[str, jax.Array] = {}

    @property
    def count(self) -> int:
        return len(self.included)

    def insert(self, summed: dict[str, jax.Array], drawn: np.ndarray, clip: float) -> dict[str, jax.Array]:
        """The sum with the canaries that are in and drawn bool [m]."""
        self.places = self.places or self._chosen(summed)
        self.known = _read(summed, self.places)
        amounts = (clip * (self.included & drawn)).astype(np.float32)
        return _added(summed, self.places, {name: amounts[of] for name, (of, _) in self.places.items()})

    def see(self, noisy: dict[str, jax.Array], clip: float, promised: Guarantee, share: float) -> None:
        """noisy: what was made of the sum, times share, of a training that says to be as is promised."""
        rate, variance, found = promised.rate, promised.noise**2, _read(noisy, self.places)
        for name, (of, _) in self.places.items():
            x = (np.asarray(found[name], np.float64) / share - np.asarray(self.known[name], np.float64)) / clip
            self.seen[of] += np.logaddexp(np.log1p(-rate) if rate < 1 else -np.inf, np.log(rate) + (x - 0.5) / variance)
        self.steps += 1

    def _chosen(self, summed: dict[str, jax.Array]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each array (canaries, their places in it when it is flat); no two canaries have one place."""
        names = sorted(summed)
        ends = np.cumsum([summed[name].size for name in names])
        if self.count > ends[-1]:
            raise UserError(f"canaries({self.count}): the model has {ends[-1]} weights, and each canary needs its own")
        flat = np.asarray(jax.random.choice(self.key, int(ends[-1]), (self.count,), replace=False))
        of = np.searchsorted(ends, flat, side="right")
        starts = ends - np.array([summed[name].size for name in names])
        return {name: (np.flatnonzero(of == i), flat[of == i] - starts[i]) for i, name in enumerate(names)}


@jax.jit
def _read(arrays: dict[str, jax.Array], places: dict[str, tuple]) -> dict[str, jax.Array]:
    return {name: arrays[name].reshape(-1)[at] for name, (_, at) in places.items()}


@jax.jit
def _added(arrays: dict[str, jax.Array], places: dict[str, tuple], amounts: dict) -> dict[str, jax.Array]:
    flat = {name: arrays[name].reshape(-1).at[at].add(amounts[name]) for name, (_, at) in places.items()}
    return {name: value.reshape(arrays[name].shape) for name, value in flat.items()}


@register("attack", "gradient_canaries", threat="white_box_audit", access="gradients", paper="nasr2023")
@record
class GradientCanaries(OneRunAudit):
    """share, bound: as for one_run_audit."""

    share: float = 0.1
    bound: str = "fdp"

    def witness(self, key: jax.Array, included: np.ndarray) -> Witness:
        return Witness(key, included)

    def watched(self, defence: Any, witness: Witness) -> Any:
        """The training defence with the witness at its sums. UserError for one that has no place for it."""
        if not hasattr(defence, "witness"):
            name = defence.registered[1]
            raise UserError(f"gradient_canaries: '{name}' adds up no clipped gradients; audit e.g. dp_sgd(epsilon=3.0)")
        return defence.replace(witness=witness)
