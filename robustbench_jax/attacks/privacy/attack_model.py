"""attack_model(hidden): a classifier of records together with what the victim says of them, trained on complete ones.

Reference: the black-box attack model of the Adversarial Robustness Toolbox (Nicolae et al., 2018, arXiv:1807.01069).
Departs from it: it sees the victim's answers to a record with every value in its place, as whoever does not know the
value can, rather than the answer to the true record.
Shapes: N records, V values, C classes, F features.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import log_softmax

from robustbench_jax.attributes import AttributeAttack, Records, described
from robustbench_jax.keys import stream
from robustbench_jax.ops.regression import chosen_regression, log_shares
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, require_positive, static

LEAST = -15.0  # of a log-probability
RATE, DECAY = 1e-3, 0.1


@register("attack", "attack_model", threat="attribute", access="scores")
@record
class AttackModel(AttributeAttack):
    """hidden: units of its one hidden layer, trained by Adam in `steps` whole batches; 0 for a softmax regression."""

    hidden: int = static(default=0)
    steps: int = static(default=100)

    def __post_init__(self):
        require_positive("attack_model", steps=self.steps)
        if self.hidden < 0:
            raise UserError(f"attack_model: hidden = {self.hidden} must be at least 0")

    def score(self, key: jax.Array, records: Records) -> np.ndarray:
        known, values = records.complete, records.attribute.values
        seen = np.concatenate([described(known), _logs(records.of_every(known.x), known.y)], axis=1)
        asked = np.concatenate([described(records.data), _logs(records.answers, records.data.y)], axis=1)
        if not self.hidden:
            return log_shares(asked, chosen_regression(seen, values, len(records.prior)))
        middle, scale = seen.mean(0), np.maximum(seen.std(0), 1e-9)
        seen, asked = (seen - middle) / scale, (asked - middle) / scale
        return np.asarray(_network(stream(key, "network"), seen, values, asked, len(records.prior), self))


def _logs(answers: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[N, V (C + 1)]: log-probabilities of answers [N, V, C], those of the labels y once more, by themselves."""
    logs = np.maximum(log_softmax(answers, -1), LEAST)
    own = np.take_along_axis(logs, y[:, None, None], -1)
    return np.concatenate([own, logs], -1).reshape(len(answers), -1)


def _network(key, x, y, asked, values: int, attack: AttackModel) -> np.ndarray:
    keys = jax.random.split(key)
    sizes = (x.shape[1], attack.hidden), (attack.hidden, values)
    weights = [jax.random.normal(k, s) * np.sqrt(2 / s[0]) for k, s in zip(keys, sizes, strict=True)]
    weights += [jnp.zeros(attack.hidden), jnp.zeros(values)]
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y)
    optimiser = optax.adamw(RATE, weight_decay=DECAY)

    @jax.jit
    def step(weights, state):
        def loss(weights):
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(_forward(weights, x), y))

        changes, state = optimiser.update(jax.grad(loss)(weights), state, weights)
        return optax.apply_updates(weights, changes), state

    state = optimiser.init(weights)
    for _ in range(attack.steps):
        weights, state = step(weights, state)
    return _forward(weights, jnp.asarray(asked, jnp.float32))


def _forward(weights, x):
    into, out, bias, last = weights
    return jax.nn.relu(x @ into + bias) @ out + last
