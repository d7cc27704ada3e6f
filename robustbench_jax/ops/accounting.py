"""What differentially private training promises: (epsilon, delta) of Poisson-subsampled Gaussian noise, composed.

Neighbours differ by one example that is added or removed. The accountant is dp-accounting's, by privacy loss
distributions ("pld") or Renyi divergences ("rdp", never smaller); the same numbers in older papers came from looser
ones, so compare by noise, rate and steps, not by the epsilon that was quoted.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

from robustbench_jax.types import UserError

ACCOUNTANTS = ("pld", "rdp")
SMALL = 0.05
TOLERANCE = 1e-3  # of the noise multiplier that is calibrated, relative


@dataclass(frozen=True)
class Guarantee:
    """noise: the standard deviation over the clipping norm; rate: of sampling; the accountant with its version; terms:
    what was done, where that says it better. Choices made by looking at results of several trainings are not accounted
    for.
    """

    epsilon: float
    delta: float
    noise: float
    rate: float
    steps: int
    accountant: str
    terms: str = ""


@lru_cache(maxsize=1024)
def epsilon(noise: float, rate: float, steps: int, delta: float, accountant: str = "pld") -> float:
    """Of `steps` steps of noise multiplier `noise`, each example drawn at `rate`; infinite for noise below SMALL, of
    which the accountants make nothing.
    """
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    if noise < SMALL:
        return math.inf
    step = GaussianDpEvent(noise)
    event = SelfComposedDpEvent(step if rate == 1 else PoissonSampledDpEvent(rate, step), steps)
    made = {"pld": PLDAccountant, "rdp": RdpAccountant}[accountant]()
    return float(made.compose(event).get_epsilon(delta))


def guarantee(noise: float, rate: float, steps: int, delta: float, accountant: str = "pld") -> Guarantee:
    named = f"{accountant}, dp-accounting {version('dp-accounting')}"
    return Guarantee(epsilon(noise, rate, steps, delta, accountant), delta, noise, rate, steps, named)


def gaussian_guarantee(noise: float, delta: float, terms: str) -> Guarantee:
    """Of Gaussian noise added once, or of many such additions taken together as one: exact (Balle & Wang, ICML 2018,
    arXiv:1805.06530).
    """
    from dp_accounting import get_epsilon_gaussian

    named = f"Gaussian, dp-accounting {version('dp-accounting')}"
    return Guarantee(float(get_epsilon_gaussian(noise, delta)), delta, noise, 1.0, 1, named, terms)


def noise_for(wanted: float, rate: float, steps: int, delta: float, accountant: str = "pld") -> float:
    """The smallest noise multiplier, to within a thousandth, whose epsilon is at most `wanted`.

    Raises UserError where none up to 10,000 suffices.
    """
    high = 0.5 if accountant == "rdp" else noise_for(wanted, rate, steps, delta, "rdp")  # quick, and hardly more
    low = 0.0 if accountant == "rdp" else 0.75 * high

    def suffices(noise: float) -> bool:
        return epsilon(noise, rate, steps, delta, accountant) <= wanted

    while not suffices(high):
        low, high = high, 2 * high
        if high > 1e4:
            raise UserError(f"epsilon = {wanted}: no noise suffices for {steps} steps at a rate of {rate:.3g}")
    while low and suffices(low):
        low, high = 0.75 * low, low
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high  # its own epsilon was computed and is at most `wanted`
