"""Model defences: what they make of a model, what of them its gradients see, and rejection as an answer."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.models.rejecting import Rejecting
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify, predict
from robustbench_jax.ops.views import Answering, answering
from robustbench_jax.registry import build
from robustbench_jax.threats import evasion
from robustbench_jax.types import Classifier, UserError, record

KEY = jax.random.key(0)


def defended(text, oracle):
    return build("model_defence", text).protect(KEY, oracle.model, oracle.data)


def attacked(text, model, data, eps):
    return drive(KEY, build("attack", text), model, build("budget", f"linf({eps})"), data.x, data.y)


def test_a_chain_gives_an_image_to_its_first_defence_first(linear):
    x = as_unit(linear.data.x)
    coarse, fine = defended("bit_depth(3)", linear), defended("chain([bit_depth(2), bit_depth(3)])", linear)
    rounded = np.round(np.round(x * 3) / 3 * 7) / 7
    np.testing.assert_allclose(predict(fine, x), predict(linear.model, rounded), atol=1e-5)
    assert not np.allclose(predict(coarse, x), predict(fine, x))
    assert fine.twin.net == linear.model.net and coarse.twin.params is linear.model.params


def test_bpda_passes_every_part_of_a_chain_and_leaves_the_logits_as_they_are(linear):
    eps = 2.0 * float(np.median(linear.distance("linf")))
    model = defended("chain([bit_depth(6), bit_depth(5)])", linear)
    clean = classify(model, linear.data.x) == linear.data.y
    plain = attacked("pgd(steps=10, random_start=False)", model, linear.data, eps)
    passed = attacked("bpda(pgd(steps=10))", model, linear.data, eps)
    assert plain.success[clean].mean() == 0 and plain.vanished.sum() == plain.gradients.sum()
    assert passed.success[clean & (linear.distance("linf") < 0.5 * eps)].all()
    x, past = as_unit(linear.data.x), model.replace(net=model.net.approximated)
    np.testing.assert_array_equal(predict(past, x), predict(model, x))


@record
class Bright:
    """Rejects images whose mean is above `limit`."""

    limit: float

    def excess(self, model, x, past):
        return 100.0 * (jnp.mean(x) - self.limit)


@dataclass(frozen=True)
class Steep:
    """Two classes by the mean brightness: above 1/2 and below."""

    def __call__(self, params, x):
        return params * jnp.stack([0.5 - jnp.mean(x), jnp.mean(x) - 0.5])


def rejecting(limit):
    return Classifier(Rejecting(Steep()), (jnp.float32(10.0), Bright(limit)))


def grey(levels):
    return np.broadcast_to(np.array(levels, np.float32)[:, None, None, None], (len(levels), 4, 4, 1))


def test_a_rejected_clean_image_is_wrong_and_a_rejected_attacked_image_is_not():
    model, x = rejecting(0.6), grey([0.3, 0.55, 0.7])
    np.testing.assert_array_equal(classify(model, x), [0, 1, 2])
    # from 0.45, class 0, a radius of 0.1 reaches class 1 below the limit, one from 0.3 does not; where the limit lies
    # below 1/2 every image of class 1 is rejected, so nothing succeeds
    data = type("Data", (), {"x": grey([0.45, 0.3]), "y": np.zeros(2, np.int32)})
    np.testing.assert_array_equal(attacked("pgd(steps=5)", model, data, 0.1).success, [True, False])
    np.testing.assert_array_equal(attacked("pgd(steps=5)", rejecting(0.49), data, 0.1).success, [False, False])


def test_an_attack_is_shown_the_larger_of_the_labels_logit_and_that_of_no_answer():
    model, x = rejecting(0.6), jnp.asarray(grey([0.7])[0])
    logits = model(x)
    seen = answering(model, jnp.int32(0))
    assert isinstance(seen, Answering) and logits.shape == (3,)
    np.testing.assert_allclose(seen(x), [max(logits[0], logits[2]), logits[1]])
    assert answering(Classifier(Steep(), 1.0), 0).net == Steep()


def test_a_rejecting_model_is_evaluated_with_the_data_sets_own_classes(linear):
    threat = evasion.run
    model = Classifier(Rejecting(linear.model.net), (linear.model.params, Bright(2.0)))
    outcome = threat(KEY, model, linear.data, build("attack", "pgd(steps=5)"), build("budget", "linf(0.01)"))
    plain = threat(KEY, linear.model, linear.data, build("attack", "pgd(steps=5)"), build("budget", "linf(0.01)"))
    np.testing.assert_array_equal(outcome.arrays["robust"], plain.arrays["robust"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("bit_depth(9)", "bits = 9 must be from 1 to 8"),
        ("chain([])", "chain needs a list of model defences"),
        ("chain([bit_depth(3), batch_norm_adaptation])", "chain: batch_norm_adaptation works on a bare network"),
        ("bitdepth", "did you mean 'bit_depth'"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("model_defence", text)
