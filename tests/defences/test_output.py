"""Protections of the answer: what they say, worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.defences.output.mad import products, surrogate
from robustbench_jax.ops.judge import predict
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
SAID = np.array([0.5, 0.3, 0.125, 0.075])
DATA = Dataset(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int32), tuple("abcd"), "black")


def constant(params, x):
    return params + 0 * jnp.sum(x)


def answered(text, said=SAID, key=0):
    model = build("model_defence", text).protect(KEY, Classifier(constant, jnp.log(jnp.asarray(said))), DATA)
    return np.asarray(jax.nn.softmax(predict(model, DATA.x, key=jax.random.key(key))))[0]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("rounded(1)", np.array([0.5, 0.3, 0.1, 0.1]) / 1.0),
        ("rounded(0)", [0.25, 0.25, 0.25, 0.25]),
        ("top_k(1)", [0.5, 1 / 6, 1 / 6, 1 / 6]),
        ("top_k(2)", [0.5, 0.3, 0.1, 0.1]),
        ("top_k(4)", SAID),
        ("label_only", [1, 0, 0, 0]),
        ("tempered(2.0)", np.sqrt(SAID) / np.sqrt(SAID).sum()),
    ],
)
def test_the_answer_is_what_the_paper_says(text, wanted):
    np.testing.assert_allclose(answered(text), wanted, atol=1e-6)


def test_a_reversed_sigmoid_moves_each_probability_as_its_formula_says():
    moved = SAID - 0.5 * (1 / (1 + np.exp(-0.4 * np.log(SAID / (1 - SAID)))) - 0.5)
    np.testing.assert_allclose(answered("reverse_sigmoid(0.5, 0.4)"), moved / moved.sum(), rtol=1e-5)


def test_noise_differs_by_key_and_has_its_size():
    drawn = np.stack([answered("noisy_answers(0.01)", key=key) for key in range(200)])
    assert len(np.unique(drawn[:, 0])) > 190
    assert 0.007 < np.std(drawn[:, 1]) < 0.013


@pytest.mark.parametrize("distance", [0.1, 0.4, 1.2])
def test_mad_goes_as_far_as_it_may_and_turns_the_gradient_as_no_other_class_does(distance):
    said = answered(f"mad({distance}, keep_label=False)")
    away = said - SAID
    towards = int(np.argmax(away))
    np.testing.assert_allclose(np.abs(away).sum(), min(distance, np.abs(np.eye(4)[towards] - SAID).sum()), rtol=1e-3)
    model = build("model_defence", f"mad({distance}, keep_label=False)").protect(
        KEY, Classifier(constant, jnp.log(jnp.asarray(SAID))), DATA
    )
    gram = np.asarray(products(model.params[1].surrogate, jnp.zeros(4) - 0.5))
    cosines = gram @ SAID / np.sqrt(np.diag(gram) * (SAID @ gram @ SAID))
    assert towards == np.argmin(cosines)


def test_mad_keeps_the_label_where_it_is_asked_to():
    said = answered("mad(2.0)")
    assert said.argmax() == 0 and np.abs(said - SAID).sum() > 0.1


def test_the_products_of_gradients_are_those_that_autodiff_makes():
    weights, x = surrogate(KEY, 6, 3), jax.random.normal(jax.random.key(1), (6,))

    def logs(inner, b, outer, c):
        return jax.nn.log_softmax(jax.nn.relu(x @ inner + b) @ outer + c)

    given = (weights[0], jnp.zeros(64), weights[1], jnp.zeros(3))
    rows = [np.asarray(it).reshape(3, -1) for it in jax.jacrev(logs, argnums=(0, 1, 2, 3))(*given)]
    whole = np.concatenate(rows, 1)
    np.testing.assert_allclose(products(weights, x), whole @ whole.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "text, message",
    [
        ("rounded(9)", "decimals = 9 must be from 0 to 6"),
        ("top_k(0)", "k = 0"),
        ("noisy_answers(0.0)", "sigma = 0.0"),
        ("tempered(-1.0)", "temperature = -1.0"),
        ("reverse_sigmoid(0.0)", "beta = 0.0"),
        ("mad(3.0)", "distance = 3.0 must be above 0 and at most 2"),
    ],
)
def test_a_wrong_number_is_named(text, message):
    with pytest.raises(UserError, match=message):
        build("model_defence", text)


def test_a_model_that_may_give_no_answer_is_refused():
    model, data = oracles.tiny()[0], oracles.noise_images(60)
    rejecting = build("model_defence", "mahalanobis(fpr=0.1)").protect(KEY, model, data)
    with pytest.raises(UserError, match="put it inside"):
        build("model_defence", "label_only").protect(KEY, rejecting, data)
