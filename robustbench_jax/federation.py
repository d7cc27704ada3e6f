"""Federated learning: n clients send momenta, a server aggregates them; f of the clients may lie.

A step: every client draws a batch of its own images, adds the gradient of its loss to its momentum and sends that; the
Byzantine clients, the last f, send what their attack makes of the honest vectors; the server moves the weights along
the aggregate, with the recipe's learning rate and weight decay. Clients are one vmapped axis. A step draws from (key,
step), so the same key gives the same run. Only the trained weights are shared: batch norm would need statistics.
Shapes: n clients, S images of the largest, B batch, d weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from robustbench_jax.keys import generator, stream
from robustbench_jax.learning_curve import Curve, Progress, Report, Trace, silent
from robustbench_jax.ops.images import as_unit
from robustbench_jax.recipes import Recipe
from robustbench_jax.types import Classifier, Dataset, UserError, record

EVERY = 20  # steps between two looks at the loss


class ByzantineAttack:
    """What f colluding clients send. They see all honest vectors (after momentum) and know the server's rule.

    flips: they send vectors of images with wrong labels, `boost` times as long, and `send` is not called.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    goal = "byzantine"
    flips = False

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("byzantine",)

    def boost(self, n: int, f: int) -> float:
        """By what f of n clients that flip labels lengthen what they send."""
        return 1.0

    def send(self, key: jax.Array, honest: jax.Array, f: int, aggregate: Callable) -> jax.Array:
        """[f, d] of honest vectors [n - f, d]; aggregate(vectors [n, d]) -> [d] is the server's rule."""
        raise NotImplementedError


@dataclass(frozen=True)
class Clients:
    """rows int [n, S]: the images of each, the first sizes [n] of its row."""

    rows: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, parts: list[np.ndarray]) -> "Clients":
        sizes = np.array([len(part) for part in parts])
        if not sizes.all():
            raise UserError(f"{int(np.sum(sizes == 0))} of {len(parts)} clients have no images: take fewer clients")
        return cls(np.stack([np.resize(part, sizes.max()) for part in parts]), sizes)


def shards(key: jax.Array, y: np.ndarray, clients: int, dirichlet: float, classes_each: int) -> Clients:
    """Images by client: shuffled and dealt out evenly; or, of each class, in shares drawn from Dirichlet(alpha); or
    sorted by class and cut into clients * classes_each pieces, so many of them to each.
    """
    rng = generator(key)
    order = rng.permutation(len(y))
    if classes_each:
        pieces = np.array_split(order[np.argsort(y[order], kind="stable")], clients * classes_each)
        dealt = rng.permutation(len(pieces)).reshape(clients, classes_each)
        return Clients.of([np.concatenate([pieces[i] for i in own]) for own in dealt])
    if not dirichlet:
        return Clients.of(np.array_split(order, clients))
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in np.unique(y):
        rows = order[y[order] == label]
        ends = np.round(np.cumsum(rng.dirichlet(np.full(clients, dirichlet))) * len(rows)).astype(int)
        for own, piece in zip(parts, np.split(rows, ends[:-1]), strict=True):
            own.append(piece)
    return Clients.of([np.concatenate(own) for own in parts])


@record
class Server:
    """What goes from step to step: weights [d], momenta [n, d], the last aggregate [d]."""

    weights: jax.Array
    momenta: jax.Array
    centre: jax.Array
    trace: Trace


def federate(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    recipe: Recipe,
    clients: Clients,
    rule: Any,
    *,
    momentum: float,
    declared: int,
    attack: ByzantineAttack | None = None,
    f: int = 0,
    report: Report = silent,
) -> tuple[Classifier, Curve]:
    """Trains `model`; the key is consumed. declared: the f that the server's rule is told.

    Raises UserError where the rule is not made for so many, where f is not below n / 2, and for models whose weights
    are not all trained by gradients (batch norm).
    """
    count = len(clients.sizes)
    rule.check(count, declared)
    if not 0 <= 2 * f < count:
        raise UserError(f"byzantine({f}): of {count} clients fewer than half may be Byzantine")
    weights, rebuild = ravel_pytree(model.net.trainable(model.params))
    per_epoch = len(data) // (recipe.batch_size * count)
    if not per_epoch:
        raise UserError(f"batch_size = {recipe.batch_size}: {count} clients draw more than the {len(data)} images")
    total, x, y = per_epoch * recipe.epochs, jnp.asarray(data.x), jnp.asarray(data.y)
    zero = jnp.zeros_like(weights)
    server = Server(weights, jnp.zeros((count, len(weights))), zero, Trace.of(recipe.epochs))
    rows, sizes = jnp.asarray(clients.rows), jnp.asarray(clients.sizes)
    rates, steps = np.asarray(jax.vmap(recipe.rate(total))(jnp.arange(total))), stream(key, "step")
    fixed = {"net": model.net, "rebuild": _Rebuild(rebuild, len(data.classes)), "batch": recipe.batch_size}
    for step in range(total):
        numbers = (rates[step], recipe.weight_decay, momentum)
        server, measured = _step(
            steps, step, server, model.params, x, y, rows, sizes, rule, attack, numbers, per_epoch,
            f=f, declared=declared, **fixed,
        )  # fmt: skip
        if (step + 1) % EVERY == 0 or step + 1 == total:
            report(Progress(step + 1, total, *map(float, measured)))
    params = model.params | rebuild(server.weights)
    return model.replace(params=params), Curve.read(server.trace, "last", 0, total)


class _Rebuild:
    """Weights [d] to the model's arrays: static, equal for models of one architecture."""

    def __init__(self, function: Callable, classes: int):
        self.function, self.classes = function, classes

    def __hash__(self) -> int:
        return hash(self.classes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rebuild) and self.classes == other.classes


@partial(jax.jit, static_argnames=("net", "rebuild", "batch", "f", "declared"))
def _step(
    key, step, server, params, x, y, rows, sizes, rule, attack, numbers, per_epoch, *, net, rebuild, batch, f, declared
):
    key = jax.random.fold_in(key, step)
    rate, decay, momentum = numbers
    n = len(rows)
    drawn = jax.random.uniform(stream(key, "batch"), (n, batch))
    chosen = jnp.take_along_axis(rows, (drawn * sizes[:, None]).astype(jnp.int32), axis=1)
    labels = y[chosen]
    if attack is not None and attack.flips and f:
        labels = labels.at[n - f :].set(rebuild.classes - 1 - labels[n - f :])

    def loss(weights, x, y):
        logits = net(params | rebuild.function(weights), as_unit(x))
        right = jnp.mean(jnp.argmax(logits, -1) == y)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y)), right

    (losses, right), gradients = jax.vmap(jax.value_and_grad(loss, has_aux=True), (None, 0, 0))(
        server.weights, x[chosen], labels
    )
    momenta = momentum * server.momenta + (1 - momentum) * gradients
    sent = momenta
    if attack is not None and f and attack.flips:
        sent = momenta.at[n - f :].multiply(attack.boost(n, f))
    elif attack is not None and f:
        rule_key = stream(key, "rule")
        lies = attack.send(
            stream(key, "attack"), momenta[: n - f], f, lambda v: rule.aggregate(rule_key, v, declared, server.centre)
        )
        sent = momenta.at[n - f :].set(lies)
    aggregate = rule.aggregate(stream(key, "rule"), sent, declared, server.centre)
    weights = server.weights - rate * (aggregate + decay * server.weights)
    measured = jnp.mean(losses[: n - f]), jnp.mean(right[: n - f])
    trace = server.trace.trained(step // per_epoch, *measured, 1 / per_epoch)
    return Server(weights, momenta, aggregate, trace), measured
