"""mntd(): a classifier of models, trained on models with and without backdoors of the defender's own making.

References: meta neural Trojan detection, Xu et al., IEEE S&P 2021, arXiv:1910.03137, with query tuning: a few inputs,
optimised together with a small network that reads what a model says of them. Universal litmus patterns, Kolouri et al.,
CVPR 2020, arXiv:1906.10842, are the same with a linear reader (`hidden=0`). Shadow models are trained on the trusted
images alone; backdoors of half of them come of jumbo learning: each has a trigger (a random patch, or a random faint
picture), a target and a poison rate drawn for it.
Departs from the papers: what a model says of the queries is brought to mean 0 and deviation 1 before it is read, since
a model of more images is surer than its shadows; a step sees several shadows at once; queries stay in [0, 1].
Shapes: S shadow models, Q queries, C classes, D = [H, W, K].
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.defences.inspection.inspector import Inspection, Inspector
from robustbench_jax.defences.training.standard import Standard
from robustbench_jax.keys import generator, stream
from robustbench_jax.registry import register
from robustbench_jax.stacks import fit_many
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

TOGETHER = 16  # shadow models that a step sees
POISONS = 0.5  # of as many images as there are trusted ones, at most, that a backdoor adds to these
OPTIMISER = optax.adam(0.01)


@register("inspection", "mntd", paper="xu2021mntd", parts={"recipe": "recipe"}, given=("blank",))
@record
class MNTD(Inspector):
    """shadows: of either kind; recipe: how they are trained; queries; hidden: units of the reader, 0 for a linear one;
    steps: of queries and reader together. The score is the reader's, above 0 for a model that it takes for backdoored.
    """

    shadows: int = static(default=32)
    recipe: Any = "adamw(epochs=20, batch_size=32, learning_rate=0.003)"
    queries: int = static(default=10)
    hidden: int = static(default=20)
    steps: int = static(default=300)
    blank: Any = static(default=None)

    def __post_init__(self):
        require_positive("mntd", shadows=self.shadows, queries=self.queries, steps=self.steps)
        if self.hidden < 0:
            raise UserError(f"mntd: hidden = {self.hidden} must be at least 0")

    def making(self, blank: Callable[[jax.Array], Classifier]) -> "MNTD":
        """With models of the inspected one's architecture: blank(key) makes one with fresh weights."""
        return self.replace(blank=blank)

    def inspect(self, key: jax.Array, model: Classifier, trusted: Dataset) -> Inspection:
        if self.blank is None:
            raise UserError("mntd: it trains models of its own, so it must be given the architecture")
        known = _Known(trusted, model, key, self)
        reader = _reader(known)
        score = float(read(reader, _said(model.net, model.params, reader["queries"])))
        return Inspection(score, np.array([score > 0]), {"queries": np.asarray(_shown(reader["queries"]))})


class _Known:
    """All that a reader is made from; equal for models of one architecture, one key and the same trusted images."""

    def __init__(self, trusted: Dataset, model: Classifier, key: jax.Array, settings: MNTD):
        self.trusted, self.key, self.settings = trusted, key, settings
        words = tuple(np.asarray(jax.random.key_data(key)).tolist())
        self.identity = (trusted.digest, model.net, words, settings.replace(blank=None))

    def __hash__(self) -> int:
        return hash(self.identity[:3])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self.identity == other.identity


@lru_cache(maxsize=32)
def _reader(known: _Known) -> dict[str, jax.Array]:
    """Queries and reader, from shadow models trained for them: once for all models that are inspected with one key."""
    settings, key = known.settings, known.key
    data, rows = jumbo(generator(stream(key, "jumbo")), known.trusted, settings.shadows)
    keys = jax.random.split(stream(key, "shadows"), len(rows))
    models = [settings.blank(stream(own, "init")) for own in keys]
    stack = models[0].replace(params=jax.tree.map(lambda *each: jnp.stack(each), *(m.params for m in models)))
    fitted = fit_many(keys, stack, data, settings.recipe, defence=Standard(), subsets=rows)
    bad = np.arange(len(rows)) >= settings.shadows
    return fit_reader(stream(key, "reader"), fitted, bad, data.x.shape[1:], settings)


def jumbo(rng: np.random.Generator, trusted: Dataset, shadows: int) -> tuple[Dataset, np.ndarray]:
    """(images, rows int [S, n]): the trusted images and those with triggers; `shadows` rows for clean models, drawn
    from the trusted ones alone, then as many for models with a backdoor each.
    """
    size = len(trusted)
    most = max(int(POISONS * size), 1)
    x, y, rows = [trusted.x], [trusted.y], []
    for number in range(2 * shadows):
        own = np.concatenate([np.arange(size), rng.integers(0, size, most)])
        if number >= shadows:
            count = int(rng.integers(max(most // 10, 1), most + 1))
            target, drawn = int(rng.integers(len(trusted.classes))), rng.choice(size, count, replace=False)
            own[size : size + count] = sum(map(len, x)) + np.arange(count)
            x.append(stamp(rng, trusted.x[drawn]))
            y.append(np.full(count, target, trusted.y.dtype))
        rows.append(own)
    return Dataset(np.concatenate(x), np.concatenate(y), trusted.classes, "jumbo"), np.stack(rows)


def stamp(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """uint8 [n, D]: images x uint8 [n, D], all with one trigger: a patch of 2 to 5 pixels a side anywhere, or, as
    often, a picture that takes 5 to 25% of the whole image. Both are of random pixels.
    """
    height, width = x.shape[1:3]
    picture = rng.integers(0, 256, x.shape[1:])
    if rng.random() < 0.5:
        share = rng.uniform(0.05, 0.25)
        return np.round((1 - share) * x + share * picture).astype(np.uint8)
    side = int(rng.integers(2, min(6, height, width)))
    top, left = (int(rng.integers(0, end - side + 1)) for end in (height, width))
    made = np.array(x)
    made[:, top : top + side, left : left + side] = picture[top : top + side, left : left + side]
    return made


def fit_reader(key: jax.Array, models: Classifier, bad: np.ndarray, shape, settings: MNTD) -> dict[str, jax.Array]:
    """Queries (before `_shown`) and the reader's weights, for models stacked [S] of which `bad` bool[S] are backdoored.
    The key is consumed.
    """
    classes = models.net(jax.tree.map(lambda v: v[0], models.params), jnp.zeros(shape)).shape[-1]
    sizes = (settings.queries * classes, *([settings.hidden] if settings.hidden else []), 1)
    weights = {"queries": jax.random.normal(stream(key, "queries"), (settings.queries, *shape))}
    for number, (ins, outs) in enumerate(zip(sizes, sizes[1:], strict=False)):
        own = jax.random.fold_in(stream(key, "weights"), number)
        weights[f"kernel{number}"] = jax.random.normal(own, (ins, outs)) * np.sqrt(1 / ins)
        weights[f"bias{number}"] = jnp.zeros(outs)
    state = OPTIMISER.init(weights)
    order = generator(stream(key, "order"))
    for _ in range(settings.steps):
        some = order.choice(len(bad), min(TOGETHER, len(bad)), replace=False)
        params = jax.tree.map(lambda v, some=some: v[some], models.params)
        weights, state = _learn(models.net, params, weights, state, bad[some].astype(np.float32))
    return weights


def read(weights: dict[str, jax.Array], said: jax.Array) -> jax.Array:
    """The reader's score of what a model said [Q, C]."""
    value = (said - jnp.mean(said)) / (jnp.std(said) + 1e-6)
    value, layers = value.reshape(-1), sum(name.startswith("kernel") for name in weights)
    for number in range(layers):
        value = value @ weights[f"kernel{number}"] + weights[f"bias{number}"]
        value = jax.nn.relu(value) if number + 1 < layers else value
    return value[0]


def _shown(queries: jax.Array) -> jax.Array:
    """Queries as images, in (0, 1)."""
    return jax.nn.sigmoid(queries)


@partial(jax.jit, static_argnames="net")
def _said(net, params, queries: jax.Array) -> jax.Array:
    """[Q, C]: the logits of a model."""
    return net(params, _shown(queries))


@partial(jax.jit, static_argnames="net")
def _learn(net, params, weights, state, bad):
    def loss(weights):
        said = jax.vmap(lambda own: net(own, _shown(weights["queries"])))(params)
        scores = jax.vmap(partial(read, weights))(said)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(scores, bad))

    changes, state = OPTIMISER.update(jax.grad(loss)(weights), state)
    return optax.apply_updates(weights, changes), state
