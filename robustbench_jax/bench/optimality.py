"""Optimality: how close an attack comes to the best that any attack has found, between 0 (it finds nothing) and 1.

Reference: Cina, Rony, Pintor et al., AAAI 2025, arXiv:2404.19460 (AttackBench), "local optimality" on one model,
"global optimality" over several.
The curve of an attack is the share of all images that are still classified correctly when every perturbation it found
of size at most eps counts as an error. The envelope is the curve of the smallest perturbation that any attack found for
each image; eps_0 is where it reaches 0. With the areas A and A* under curve and envelope on [0, eps_0], and clean
accuracy a,

    optimality = 1 - (A - A*) / (a eps_0 - A*) = (a eps_0 - A) / (a eps_0 - A*).

The curves are steps, so their areas are means of clipped sizes, exactly; the authors' program joins the steps by
straight lines (trapezoids), which differs by about 1 / N. Where no attack breaks some image, the envelope does not
reach 0; eps_0 then is its largest size.
Shapes: N images. Host code.
"""

import numpy as np

from robustbench_jax.types import UserError


def envelope(sizes: dict[str, np.ndarray]) -> np.ndarray:
    """The smallest size [N] that any attack found for each image; infinite where none did.

    sizes: by attack, [N] each: of the smallest perturbation that it found, 0 for an image that is wrong from the start,
    NaN or infinite for none. UserError where the attacks were not run on the same number of images.
    """
    if not sizes or len({np.shape(found) for found in sizes.values()}) > 1:
        shapes = {name: np.shape(found) for name, found in sizes.items()}
        raise UserError(f"optimality needs the sizes of at least one attack, all on the same images; got {shapes}")
    return np.min([_sizes(found) for found in sizes.values()], axis=0)


def optimality(found: np.ndarray, best: np.ndarray) -> float | None:
    """Local optimality of one attack's sizes [N] against the envelope's [N]; None where nothing was ever broken.

    Below 0 it is 0: that is where an attack's sizes are no better than none at all. Raises UserError where the attack
    beats the envelope, which then is none.
    """
    found, best = _sizes(found), _sizes(best)
    if np.any(found < best):
        raise UserError(
            f"optimality: on {np.sum(found < best)} images the attack is better than the best of all attacks"
        )
    reach = np.max(best[np.isfinite(best)], initial=0.0)
    nothing, least = np.mean(best > 0) * reach, _area(best, reach)
    if nothing <= least:
        return None
    return float(max(0.0, (nothing - _area(found, reach)) / (nothing - least)))


def table(sizes: dict[str, np.ndarray]) -> dict[str, float | None]:
    """The local optimality of each attack, the best first."""
    best = envelope(sizes)
    return dict(sorted(((k, optimality(v, best)) for k, v in sizes.items()), key=lambda kv: (-(kv[1] or 0), kv[0])))


def global_optimality(local: list[float]) -> float:
    """The mean over models of the local optimality of one attack."""
    if not local:
        raise UserError("global optimality is a mean over models; got none")
    return float(np.mean(local))


def robust_accuracy_curve(found: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """The share of all images [E] that no perturbation of size at most eps [E] breaks, from sizes [N] (as above)."""
    return np.mean(_sizes(found)[None, :] > np.asarray(eps, np.float64)[:, None], axis=1)


def _area(found: np.ndarray, reach: float) -> float:
    """Under the curve on [0, reach]: the curve is the share of sizes above eps, so its integral is a mean."""
    return float(np.mean(np.minimum(found, reach)))


def _sizes(found: np.ndarray) -> np.ndarray:
    found = np.asarray(found, np.float64)
    if np.any(found < 0):
        raise UserError(f"optimality: a perturbation of size {np.nanmin(found)} is none")
    return np.where(np.isnan(found), np.inf, found)
