"""branch_and_bound: what linear bounds leave open is split into ReLUs on and ReLUs off until it is proved.

Reference: Wang et al., NeurIPS 2021, arXiv:2103.06624 (beta-CROWN); Bunel et al., JMLR 2020, arXiv:1909.06588. Bounds
of layers before the last are those of the whole region, from `alpha_crown`. Complete for networks of affine layers,
ReLUs and maxima up to the limits of time, domains and float32; a domain that stays open with every ReLU decided leaves
its image undecided.
"""

import time

import jax
import numpy as np

from robustbench_jax.certify import bounding, search
from robustbench_jax.certify.bounded import BALLS, CLOSE, BoundCertifier, margin_rows, regions_of, slices
from robustbench_jax.ops.bounds.regions import Region
from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.types import Certificate, Classifier, record, require_positive

SLACK = CLOSE / 10  # what a margin must exceed, as a share of the size of the logits: float32 decides


@register("certifier", "branch_and_bound", paper="wang2021", budgets=BALLS)
@record
class BranchAndBound(BoundCertifier):
    """timeout: seconds of search for each image; domains: at most so many for each class of an image; steps: of ascent
    in each domain. An image with a counterexample is not searched further. Never below `alpha_crown`.
    """

    timeout: float = 10.0
    domains: int = 100_000
    steps: int = 10
    inner_steps: int = 4

    def __post_init__(self):
        require_positive("branch_and_bound", timeout=self.timeout, domains=self.domains, steps=self.steps)

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
        )

    def of_slice(self, model, x, rows, budget, slack, runtime) -> dict[str, np.ndarray]:
        """margin, attacked, x_adv, seconds and domains of images that are bounded together."""
        count, started = len(x), time.perf_counter()
        padded = np.resize(np.arange(count), runtime.fit(count))
        regions = regions_of(x[padded], budget)
        margins, known = bounding.in_turn(model, regions, rows[padded], 3 * self.steps, self.inner_steps)
        margins = margins[:count]
        found = {
            "seconds": np.full(count, (time.perf_counter() - started) / count),
            "attacked": np.zeros(count, bool),
            "x_adv": np.zeros(x.shape, np.float32),
            "domains": np.zeros(count, int),
        }
        image, target = np.nonzero(margins <= slack[:, None])
        if len(image):
            open_ = rows[image, target][:, None]
            problems = search.Problems(
                regions, known, image.astype(np.int32), open_, np.zeros(open_.shape[:2], np.float32)
            )
            proof = search.prove(model, problems, group=image, slack=slack[image], **self.limits)
            margins[image, target] = np.maximum(margins[image, target], proof.lower)
            np.add.at(found["seconds"], image, proof.seconds)
            np.add.at(found["domains"], image, proof.domains)
            lost = proof.attacked
            found["attacked"][image[lost]], found["x_adv"][image[lost]] = True, proof.x_adv[lost]
        return found | {"margin": margins.min(-1)}

    @property
    def limits(self) -> dict:
        return {"timeout": self.timeout, "limit": int(self.domains), "steps": int(self.steps)}


def prove(
    model: Classifier,
    regions: Region,
    rows: np.ndarray,
    offsets: np.ndarray,
    *,
    deadline: float,
    runtime: Runtime,
    limit: int = 10**7,
    steps: int = 10,
    inner_steps: int = 4,
) -> search.Proof:
    """Searches problems each in a region of its own: max_k(rows[k] . logits + offsets[k]) > 0.

    regions [P]; rows [P, K, C]; offsets [P, K]; deadline: by time.monotonic().
    """
    with jax.default_matmul_precision("highest"):
        size = np.abs(rows).sum(-1).max(-1) * np.maximum(np.abs(_logits(model, regions)).max(-1), 1.0)
        slack = SLACK * size
        found, known = bounding.in_turn(
            model, regions, rows, 3 * steps, inner_steps, lambda found: (found + offsets).max(-1) > slack
        )
        lower = (found + offsets).max(-1)
        open_ = np.flatnonzero(lower <= slack)
        proof = search.Proof.of(lower, lower > slack, regions.low.shape[1:])
        if len(open_):
            problems = search.Problems(regions, known, open_.astype(np.int32), rows[open_], offsets[open_])
            timeout = max(deadline - time.monotonic(), 0.0)
            part = search.prove(
                model,
                problems,
                group=np.zeros(len(open_), int),
                timeout=timeout,
                limit=limit,
                steps=steps,
                slack=slack[open_],
            )
            for name, values in vars(part).items():
                getattr(proof, name)[open_] = values
    return proof


@jax.jit
def _logits(model: Classifier, regions: Region) -> jax.Array:
    return jax.vmap(model)(regions.x)
