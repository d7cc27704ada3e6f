"""randomized_smoothing(sigma): the class that most noisy copies of an image get, and how far it is sure to hold.

References: Cohen et al., ICML 2019, arXiv:1902.02918 (Gaussian noise, L2); Yang et al., ICML 2020, arXiv:2002.08118
(uniform noise, L1); Salman et al., NeurIPS 2020, arXiv:2003.01908 (a denoiser before the model).
With p a lower bound of the probability of the class chosen, at level alpha for each image, no point nearer than the
radius gets another class:
    gaussian: L2 radius = sigma * Phi^-1(p); at most 3.81 sigma for n = 100,000 and alpha = 0.001
    uniform on [-lambda, lambda]: L1 radius = 2 lambda (p - 1/2), with lambda = sqrt(3) sigma
Departs from the papers: n is 10,000 by default, published tables use 100,000; p of the runner-up is bounded by 1 - p,
as in Cohen et al.; with looks > 1 sampling may stop early. Rounding in float32 is not part of the bound.
Shapes: B images, D input shape, C classes, A of the images at once.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from robustbench_jax.keys import stream
from robustbench_jax.ops.runtime import Runtime, placed
from robustbench_jax.ops.smoothing import require_noise, vote
from robustbench_jax.ops.statistics import clopper_pearson_lower
from robustbench_jax.registry import register
from robustbench_jax.types import Certificate, Certifier, Classifier, UserError, record, require_positive

AT_ONCE = 32  # images whose votes are counted together: enough that few rows of the last call are idle
GROWTH = 4  # each look sees so many times the samples of the one before
BUDGETS = {"gaussian": "l2", "uniform": "l1"}


@register(
    "certifier", "randomized_smoothing", paper="cohen2019", budgets=("l2", "l1"), parts={"denoiser": "pretrained"}
)
@record
class RandomizedSmoothing(Certifier):
    """sigma: the standard deviation of the noise, on the scale of [0, 1]. n0 samples choose the class, n others bound
    its probability. noise: "gaussian" certifies L2, "uniform" L1. denoiser: a trained model, images [D] to images [D],
    that cleans each noisy copy before the model sees it.

    looks: how often an image may be judged, after n / 4, n / 16, ... samples too; each look spends alpha / looks
    (Bonferroni), so that `failure` stays alpha. An image is done where the budget's radius is certified or, as an
    upper bound at the same level says, out of reach. With one look, as published, radii are as large as n allows; more
    looks are for one radius, and the radii of images that end early are small.
    """

    sigma: float = 0.25
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    noise: str = "gaussian"
    denoiser: Any = None
    looks: int = 1
    own_prediction = True

    def __post_init__(self):
        owner = "randomized_smoothing"
        require_positive(owner, sigma=self.sigma, n0=self.n0, n=self.n, looks=self.looks)
        require_noise(owner, self.noise)
        if not 0 < self.alpha < 1:
            raise UserError(f"{owner}: alpha = {self.alpha} must lie between 0 and 1")
        least = math.floor(math.log(self.level) / math.log(0.5)) + 1
        if self.n < least:
            raise UserError(f"{owner}: n = {self.n} samples always abstain; alpha = {self.alpha} needs {least} or more")
        if self.n < GROWTH ** (self.looks - 1):
            raise UserError(f"{owner}: looks = {self.looks}: n = {self.n} cannot be divided by {GROWTH} so often")

    @property
    def budgets(self) -> tuple[str, ...]:
        return (BUDGETS[self.noise],)

    @property
    def failure(self) -> float:
        return self.alpha

    @property
    def level(self) -> float:
        """What one look may fail with."""
        return self.alpha / self.looks

    @property
    def schedule(self) -> tuple[int, ...]:
        """Samples of an image seen at each look."""
        return tuple(max(self.n // GROWTH**i, 1) for i in reversed(range(self.looks)))

    def certify(
        self,
        key: jax.Array,
        model: Classifier,
        x: np.ndarray,
        y: np.ndarray,
        budget: Any,
        *,
        ids: np.ndarray,
        runtime: Runtime,
        report: Callable[[int], None] = lambda settled: None,
    ) -> Certificate:
        """As Certifier says. prediction: the class chosen, -1 where the vote abstains (p of at most 1/2).

        radius float64[B]: of the prediction, whether it is right or not, 0 for an abstention; certified: the prediction
        is y and the radius at least the budget's. evidence: successes and samples int[B], the votes that bound p at
        level alpha / looks. Raises UserError for another budget, and where logits are not finite.
        """
        eps = self._radius_asked(budget)
        model, began = self._denoised(model, x.shape[1:]), time.perf_counter()
        parts, done = [], 0
        for start in range(0, len(x), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            votes = Votes(model, x[rows], np.asarray(ids)[rows], self, runtime)
            parts.append(self._settle(key, votes, eps))
            done += len(parts[-1][0])
            report(done)
        top, p, successes, samples, drawn = (np.concatenate(column) for column in zip(*parts, strict=True))
        radius = self.radius(p)
        prediction = np.where(p > 0.5, top, -1)
        cost = drawn + self.n0
        return Certificate(
            certified=(prediction == y) & (radius >= eps),
            prediction=prediction,
            margin=np.full(len(x), np.nan),
            radius=radius,
            failure=self.alpha,
            seconds=(time.perf_counter() - began) * cost / cost.sum(),
            counts={"forward_evaluations": int(cost.sum())},
            flags=self._flags(eps),
            evidence={"successes": successes, "samples": samples},
        )

    def radius(self, p: np.ndarray) -> np.ndarray:
        """The radius for lower bounds p [B] of the probability of the class; 0 for those of at most 1/2."""
        p = np.maximum(np.asarray(p, np.float64), 0.5)
        return self.sigma * (stats.norm.ppf(p) if self.noise == "gaussian" else math.sqrt(3) * (2 * p - 1))

    def needed(self, eps: float) -> float:
        """The p whose radius is eps."""
        return (
            stats.norm.cdf(eps / self.sigma) if self.noise == "gaussian" else 0.5 + eps / (math.sqrt(12) * self.sigma)
        )

    def _settle(self, key: jax.Array, votes: "Votes", eps: float) -> tuple[np.ndarray, ...]:
        """(class chosen, p, successes of samples that bound it, samples drawn) of the images of one Votes."""
        images = np.arange(votes.count)
        top = votes.more(stream(key, "selection"), images, 0, self.n0)[:, :-1].argmax(1)
        p, successes, samples, drawn = np.zeros(votes.count), *(np.zeros_like(images) for _ in range(3))
        counts, seen = 0, 0
        for until in self.schedule:
            counts = counts + votes.more(stream(key, "estimation"), images, seen, until)
            seen, drawn[images], agreed = until, until, counts[images, top[images]]
            lower = self._bounds(agreed, until)
            better = lower >= p[images]
            rows = images[better]
            p[rows], successes[rows], samples[rows] = lower[better], agreed[better], until
            images = images[~self._finished(p[images], agreed, until, eps)]
        return top, p, successes, samples, drawn

    def _finished(self, p: np.ndarray, successes: np.ndarray, samples: int, eps: float) -> np.ndarray:
        """Which images are certified at eps, or have a prediction and no hope of eps, or no hope of either."""
        upper = 1 - self._bounds(samples - successes, samples)
        reach = np.minimum(upper, self._bounds(np.array([self.n]), self.n))
        return ((p > 0.5) & (self.radius(p) >= eps)) | ((reach < self.needed(eps)) & ((p > 0.5) | (reach <= 0.5)))

    def _bounds(self, successes: np.ndarray, samples: int) -> np.ndarray:
        """Exact one-sided lower bounds, in float64; all of n gives level^(1/n)."""
        each, where = np.unique(successes, return_inverse=True)
        return np.array([clopper_pearson_lower(int(k), samples, self.level) for k in each])[where]

    def _radius_asked(self, budget: Any) -> float:
        name = budget.registered[1]
        if name not in self.budgets:
            kind = next((noise for noise, ball in BUDGETS.items() if ball == name), None)
            hint = f"; for {name} take noise='{kind}'" if kind else ""
            raise UserError(
                f"randomized_smoothing: noise = '{self.noise}' certifies {self.budgets[0]}, not {name}{hint}"
            )
        return float(budget.eps)

    def _flags(self, eps: float) -> tuple[str, ...]:
        most = float(self.radius(self._bounds(np.array([self.n]), self.n))[0])
        if most >= eps:
            return ()
        return (f"n = {self.n} samples at alpha = {self.alpha} certify no radius above {most:.4g}; {eps:.4g} is asked",)

    def _denoised(self, model: Classifier, shape: tuple[int, ...]) -> Any:
        if self.denoiser is None:
            return model
        cleaner = self.denoiser.load()[0]
        made = jax.eval_shape(cleaner.keyed(jax.random.key(0)), jax.ShapeDtypeStruct(shape, jnp.float32)).shape
        if made != shape and (math.prod(made) != math.prod(shape) or shape[-1] != 1):
            raise UserError(f"randomized_smoothing: the denoiser makes {list(made)} of images {list(shape)}")
        return Denoised(model, cleaner)


@record
class Denoised:
    """The model on what a denoiser makes of an image."""

    model: Any
    denoiser: Any

    def keyed(self, key: jax.Array) -> "Denoised":
        return Denoised(self.model.keyed(stream(key, "model")), self.denoiser.keyed(stream(key, "denoiser")))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.model(self.denoiser(x).reshape(x.shape))


class Votes:
    """Counts on the device the classes of noisy copies of at most AT_ONCE images, whose copies share batches."""

    def __init__(self, model: Any, x: np.ndarray, ids: np.ndarray, settings: RandomizedSmoothing, runtime: Runtime):
        self.count, self.sigma = len(x), settings.sigma
        self.width, self.batches = runtime.fit(AT_ONCE * settings.n), runtime.longest(model, x.shape[1:])
        self.vote = partial(vote, noise=settings.noise, mesh=runtime.mesh)
        logits = jax.eval_shape(model.keyed(jax.random.key(0)), jax.ShapeDtypeStruct(x.shape[1:], jnp.float32))
        self.empty = np.zeros((runtime.mesh.size, AT_ONCE, logits.shape[-1] + 1), np.int32)
        filled = np.minimum(np.arange(AT_ONCE), len(x) - 1)
        held = model, jnp.asarray(x[filled]), jnp.asarray(ids[filled])
        self.held, self.place = placed(held, runtime, self.width)

    def more(self, key: jax.Array, images: np.ndarray, first: int, until: int) -> np.ndarray:
        """int[A, C + 1]: the classes of copies `first` to `until` of these images; the others get none."""
        rows = np.repeat(images, until - first).astype(np.int32)
        samples = np.tile(np.arange(first, until, dtype=np.int32), len(images))
        counts = self.place(self.empty)
        for start in range(0, len(rows), self.width * self.batches):
            part = slice(start, start + self.width * self.batches)
            work = self.place((self._filled(rows[part], 0), self._filled(samples[part], -1)))
            counts = self.vote(key, self.held, counts, *work, self.sigma)
        found = np.asarray(counts).sum(0, dtype=np.int64)[: self.count]
        if found[:, -1].any():
            raise UserError(f"the model's logits are NaN or infinite for {found[:, -1].sum()} noisy images")
        return found

    def _filled(self, values: np.ndarray, value: int) -> np.ndarray:
        """[R, T]: batch after batch, the last ones filled up."""
        short = self.width * self.batches - len(values)
        return np.pad(values, (0, short), constant_values=value).reshape(self.batches, self.width).T
