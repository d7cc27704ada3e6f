"""kennen(): what kind of model answers, told from its answers to some images, and from how long they take.

Reference: Oh et al., ICLR 2018, arXiv:1711.01768 (kennen-o): a classifier is trained on the answers of a stack of
candidate models whose attributes are known, and then shown the victim's.
Departs from the paper: the classifier is a ridge regression onto each attribute's values; attributes are the family of
the architecture, the size of the images that it looks at, what is done to them first, and the bits of its weights.
Shapes: M candidates, F features, V values of an attribute.
"""

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.models.fronted import Fronted
from robustbench_jax.models.shrunk import Shrunk, smaller
from robustbench_jax.registry import build, canonical, register, short
from robustbench_jax.thefts import Oracle
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

ATTRIBUTES = ("family", "size", "front", "weights")
NONE = ""  # no front, weights as they are
ONE = 1e-6  # added to probabilities before their logarithm is taken


@dataclass(frozen=True, eq=False)
class Told:
    """names: the values of each attribute. truth and said int [M', 4]: of candidates that the classifier has not seen;
    victim int [4]: what it takes the victim for.
    """

    names: dict[str, tuple[str, ...]]
    truth: np.ndarray
    said: np.ndarray
    victim: np.ndarray


@register("attack", "kennen", threat="reverse_engineering", access="scores", paper="oh2018", parts={"recipe": "recipe"})
@record
class Kennen:
    """families: architectures; factors: by which images are shrunk; fronts and weights: model defences, "" for none.
    copies: networks of each family and factor, each trained with `recipe` on a random half of the pool; a third of
    them, at least one, is kept to see how well it can be told. timing: whether the time for an answer is looked at as
    well, which makes the result depend on the machine. ridge: the penalty.
    """

    families: tuple = static(default=("mlp([64])", "cnn([[8, 4, 2], [16, 4, 2]], [32])"))
    factors: tuple = static(default=(1, 2))
    fronts: tuple = static(default=(NONE, "bit_depth(2)", "median_filter(3)"))
    weights: tuple = static(default=(NONE, "quantised(3, activations=0)"))
    copies: int = static(default=6)
    recipe: Any = static(default="adamw(epochs=3)")
    timing: bool = False
    ridge: float = 1.0

    def __post_init__(self):
        require_positive("kennen", copies=self.copies - 1, ridge=self.ridge)
        for name in ("families", "factors", "fronts", "weights"):
            if not getattr(self, name):
                raise UserError(f"kennen: {name} = []: it needs one value at least")
        for kind, texts in (("model", self.families), ("model_defence", filter(None, self.fronts + self.weights))):
            for text in texts:
                canonical(kind, text)
        if not all(isinstance(factor, int) and factor > 0 for factor in self.factors):
            raise UserError(f"kennen: factors = {list(self.factors)} must be whole numbers of at least 1")

    @property
    def access(self) -> str:
        return "scores"

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("queries",)

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        shown = [
            tuple(short("model_defence", text) if text else "none" for text in of) for of in (self.fronts, self.weights)
        ]
        families = tuple(short("model", text) for text in self.families)
        return dict(zip(ATTRIBUTES, (families, tuple(map(str, self.factors)), *shown), strict=True))

    def require(self, shape: tuple[int, ...]) -> None:
        wrong = [factor for factor in self.factors if shape[0] % factor or shape[1] % factor]
        if wrong:
            raise UserError(f"kennen: factors: images of {list(shape)} cannot be shrunk by {wrong[0]}")

    def tell(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> Told:
        """Asks the oracle its whole budget's worth, or all images of the pool. The key is consumed."""
        count = min(oracle.left // (2 if self.timing else 1), len(pool))
        asked = pool.x[np.asarray(jax.random.permutation(stream(key, "asked"), len(pool)))[:count]]
        victim = features(oracle, asked, self.timing)
        rows, truth, copies = [], [], []
        for copy in range(self.copies):
            for values, model in self.candidates(jax.random.fold_in(stream(key, "models"), copy), pool):
                own = Oracle(model, "scores", 2 * count, stream(key, "answers"), oracle.runtime)
                rows.append(features(own, asked, self.timing))
                truth.append(values)
                copies.append(copy)
        rows, truth = np.stack(rows), np.array(truth)
        held = np.array(copies) >= self.copies - max(1, self.copies // 3)
        said = told(rows[~held], truth[~held], rows[held], self.ridge)
        return Told(self.names, truth[held], said, told(rows, truth, victim[None], self.ridge)[0])

    def candidates(self, key: jax.Array, pool: Dataset):
        """((family, size, front, weights), model): one of every kind."""
        for family, architecture in enumerate(self.families):
            for size, factor in enumerate(self.factors):
                own = jax.random.fold_in(jax.random.fold_in(key, family), size)
                model, data = self.trained(own, architecture, factor, pool)
                for bits, compression in enumerate(self.weights):
                    lighter = protected(own, compression, model, data)
                    for front, defence in enumerate(self.fronts):
                        whole = (
                            Classifier(Fronted(lighter.net), (lighter.params, Shrunk(factor)))
                            if factor > 1
                            else lighter
                        )
                        yield (family, size, front, bits), protected(own, defence, whole, pool)

    def trained(self, key: jax.Array, architecture: str, factor: int, pool: Dataset) -> tuple[Classifier, Dataset]:
        """A network trained on a random half of the pool's images, shrunk, and those images."""
        half = np.asarray(jax.random.permutation(stream(key, "half"), len(pool)))[: len(pool) // 2]
        x = np.asarray(jnp.round(smaller(jnp.asarray(pool.x[half], jnp.float32), factor))).astype(np.uint8)
        data = Dataset(x, pool.y[half], pool.classes, pool.name)
        fresh = build_model(architecture, x.shape[1:], len(pool.classes), stream(key, "init"))
        return fit(stream(key, "fit"), fresh, data, self.recipe, defence=build("training", "standard")), data


def protected(key: jax.Array, text: str, model: Classifier, data: Dataset) -> Classifier:
    return build("model_defence", text).protect(stream(key, "protect"), model, data) if text else model


def features(oracle: Oracle, x: np.ndarray, timing: bool) -> np.ndarray:
    """float [F]: logarithms of the answers to x [N, D], and of the seconds that they took."""
    said = np.log(np.nan_to_num(oracle.ask(x), nan=0.0) + ONE).ravel()
    if not timing:
        return said
    before = time.perf_counter()
    oracle.ask(x)
    return np.append(said, 10 * np.log(time.perf_counter() - before))


def told(rows: np.ndarray, truth: np.ndarray, others: np.ndarray, ridge: float) -> np.ndarray:
    """int [M', 4]: what rows [M', F] are taken for by a ridge regression of truth int [M, 4] on rows [M, F]."""
    mean, spread = rows.mean(0), rows.std(0) + 1e-6
    known, asked = (rows - mean) / spread, (others - mean) / spread
    inner = known @ known.T / known.shape[1]
    shares = np.linalg.solve(inner + ridge / len(known) * np.eye(len(known)), np.eye(len(known)))
    weights = asked @ known.T / known.shape[1] @ shares
    return np.stack([(weights @ np.eye(own.max() + 1)[own]).argmax(-1) for own in truth.T], -1)
