"""branch_and_bound: what linear bounds leave open is split into ReLUs on and ReLUs off until it is proved.

Reference: Wang et al., NeurIPS 2021, arXiv:2103.06624 (beta-CROWN); Bunel et al., JMLR 2020, arXiv:1909.06588. Bounds
of layers before the last are those of the whole region, from `alpha_crown`. Complete for networks of affine layers,
ReLUs and maxima up to the limits of time, domains, memory and float32; a domain that stays open with every ReLU decided
leaves its image undecided.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.certify import bounding
from robustbench_jax.certify.bounded import BALLS, CLOSE, BoundCertifier, margin_rows, regions_of, slices
from robustbench_jax.certify.descent import descended
from robustbench_jax.certify.reduction import Reduction
from robustbench_jax.certify.search import LARGEST, Problems, Search
from robustbench_jax.ops.bounds.regions import Region
from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.runtime import power_of_two
from robustbench_jax.registry import register
from robustbench_jax.types import Certificate, Classifier, UserError, record, require_positive

SLACK = CLOSE / 10  # what a margin must exceed, as a share of the size of the logits: float32 decides
ALPHA_STEPS = 30  # of ascent on the margins before any split, as in alpha_crown
DESCENT = 50  # steps of an attack on each margin that CROWN leaves open
TOGETHER = 64  # margins that are attacked in one call


@register("certifier", "branch_and_bound", paper="wang2021beta", budgets=BALLS)
@record
class BranchAndBound(BoundCertifier):
    """timeout: seconds of search for each image; domains: at most so many for each class of an image; steps: of ascent
    in each domain; inner_steps: for each bound of a layer before. An image with a counterexample is not bounded
    further; of all others the margin is never below that of `alpha_crown`.
    """

    timeout: float = 10.0
    domains: int = 100_000
    steps: int = 5
    inner_steps: int = 4

    def __post_init__(self):
        require_positive("branch_and_bound", timeout=self.timeout, domains=self.domains, steps=self.steps)
        if isinstance(self.inner_steps, int) and self.inner_steps < 0:
            raise UserError(f"branch_and_bound: inner_steps = {self.inner_steps} must be at least 0")

    def certify(self, key, model, x, y, budget, *, ids, runtime, report=lambda settled: None) -> Certificate:
        """As every certifier; gives counterexamples, and seconds for each image."""
        self.require_deterministic(model)
        if not len(x):
            return Certificate.empty(0)
        logits = predict(model, x, runtime)
        slack = SLACK * np.maximum(np.abs(logits).max(-1), 1.0)
        parts = []
        with jax.default_matmul_precision("highest"):
            for part in slices(len(x), runtime):
                rows = margin_rows(np.asarray(y)[part], logits.shape[-1])
                parts.append(self.of_slice(model, x[part], rows, budget, slack[part], runtime))
                report(int(part[-1]) + 1)
        large = sum(int(p.pop("large")) for p in parts)
        joined = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        return Certificate(
            certified=(joined["margin"] >= slack) & ~joined["attacked"],
            prediction=logits.argmax(-1),
            margin=joined["margin"].astype(np.float32),
            radius=np.full(len(x), np.nan, np.float32),
            attacked=joined["attacked"],
            x_adv=joined["x_adv"],
            seconds=joined["seconds"],
            counts={"domains": int(joined["domains"].sum())},
            flags=(f"{large} images have too many neurons to be searched",) if large else (),
        )

    def of_slice(self, model, x, rows, budget, slack, runtime) -> dict[str, np.ndarray]:
        """margin, attacked, x_adv, seconds and domains of images that are bounded together; how many are too large."""
        count, started = len(x), time.perf_counter()
        padded = np.resize(np.arange(count), runtime.fit(count))
        regions, filled = regions_of(x[padded], budget), rows[padded]
        margins, known = bounding.plain(model, regions, filled)
        attacked, x_adv = lost(model, regions, rows, ~(margins[:count] > slack[:, None]))
        open_ = np.flatnonzero(~attacked & ~(margins[:count].min(-1) > slack))
        margins, known = bounding.ascended(model, regions, filled, margins, known, open_, ALPHA_STEPS, self.inner_steps)
        margins, large = np.array(margins[:count]), 0
        seconds, domains = np.full(count, (time.perf_counter() - started) / count), np.zeros(count, int)
        for image in open_:
            targets = np.flatnonzero(~(margins[image] > slack[image]))
            if not len(targets):
                continue
            began = time.perf_counter()
            search = self.of_image(model, one(regions, image), one(known, image), rows[image, targets], slack[image])
            if search is None:
                large += 1
                continue
            margins[image, targets] = np.fmax(margins[image, targets], search.lower)
            attacked[image], x_adv[image] = search.attacked, search.x_adv
            domains[image] = search.domains.sum()
            seconds[image] += time.perf_counter() - began
        found = {"seconds": seconds, "attacked": attacked, "x_adv": x_adv, "domains": domains, "large": large}
        return found | {"margin": margins.min(-1)}

    def of_image(self, model, region, known, rows: np.ndarray, slack: float) -> Search | None:
        """The search of rows [P, C] of one image; None where its matrices would be too large."""
        reduction = Reduction(model, region, known)
        if reduction.entries > LARGEST:
            return None
        count = len(rows)
        search = Search(
            model,
            reduction,
            Problems(rows[:, None], np.zeros((count, 1), np.float32), np.full(count, slack)),
            int(self.steps),
        )
        search.begin()
        while search.open and search.seconds < self.timeout and search.domains.max() < self.domains:
            search.split()
        return search


def one(tree, at):
    """The entry at this number, or those at these, of all arrays."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[at], tree)


def lost(model: Classifier, regions: Region, rows: np.ndarray, open_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bool [B], points float32[B, D]): images of which descent finds a margin of at most 0 among those open [B, R]."""
    attacked, x_adv = np.zeros(len(rows), bool), np.zeros((len(rows), *regions.low.shape[1:]), np.float32)
    image, target = np.nonzero(open_)
    for at in range(0, len(image), TOGETHER):
        i, t = image[at : at + TOGETHER], target[at : at + TOGETHER]
        filled = np.resize(np.arange(len(i)), min(TOGETHER, power_of_two(len(i))))
        part = one(regions, i[filled])
        asked = rows[i, t][filled][:, None]
        value, x = descended(model, part, part.x, asked, np.zeros((len(filled), 1), np.float32), DESCENT)
        value, x = value[: len(i)], x[: len(i)]
        met = value < 0
        attacked[i[met]], x_adv[i[met]] = True, x[met]
    return attacked, x_adv
