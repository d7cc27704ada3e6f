"""Laws: what is true of every registered model defence, whoever writes the next one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.defences.serving.detector import Detector
from robustbench_jax.ops import judge
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify, predict
from robustbench_jax.registry import build, discover, parse
from robustbench_jax.types import Classifier, Dataset
from tests import oracles

KEY = jax.random.key(0)
CALLS = {  # each as it is quick to compile, or at parameters that matter on images of 8 x 8
    "bit_depth": "bit_depth(4)",
    "chain": "chain([random_noise(0.02), bit_depth(5)])",
    "feature_squeezing": "feature_squeezing([bit_depth(3), median_filter(2)], fpr=0.1)",
    "jpeg": "jpeg(75)",
    "jpeg_codec": "jpeg_codec(75)",
    "kernel_density": "kernel_density(fpr=0.1)",
    "label_only": "label_only",
    "lid": "lid(4, batch=16, attack=pgd(steps=2), budget=linf(0.1), fpr=0.1)",
    "mad": "mad(0.3)",
    "magnet": "magnet(recipe=adamw(epochs=2, batch_size=16, learning_rate=0.01), width=2, fpr=0.1)",
    "mahalanobis": "mahalanobis(fpr=0.1)",
    "median_filter": "median_filter(2)",
    "noisy_answers": "noisy_answers(0.02)",
    "non_local_means": "non_local_means(10, search=5)",
    "purified": "purified(sigma=0.05, steps=5, batch=8, width=4)",
    "random_noise": "random_noise(0.02)",
    "resize_pad": "resize_pad(0.8)",
    "reverse_sigmoid": "reverse_sigmoid(1.0, 0.2)",
    "rounded": "rounded(4)",
    "shattered": "shattered(levels=255)",
    "stochastic_masking": "stochastic_masking(draws=8)",
    "beatrix": "beatrix(powers=2, fpr=0.1)",
    "strip": "strip(blends=8, fpr=0.1)",
    "tempered": "tempered(3.0)",
    "top_k": "top_k(2)",
    "total_variation": "total_variation(0.01, dropped=0.1, steps=10)",
    "vanishing": "vanishing(1e4)",
}
ELSEWHERE = {
    "batch_norm_adaptation": "needs batch norm: test_batch_norm_adaptation.py",
    "noisy_votes": "needs an ensemble: test_noisy_votes.py",
}
KNOWN = [CALLS[name] for name in discover("model_defence") if name in CALLS]
QUICK = ("bit_depth", "jpeg", "median_filter", "resize_pad", "vanishing")  # the laws of all others are slow tests


def each(texts):
    return pytest.mark.parametrize(
        "text", [pytest.param(t, marks=() if parse(t).name in QUICK else pytest.mark.slow) for t in texts]
    )


every_defence = each(KNOWN)
every_answering = each([text for text in KNOWN if not isinstance(build("model_defence", text), Detector)])
every_preprocessing = each([text for text in KNOWN if isinstance(build("model_defence", text), Preprocessing)])


def test_every_model_defence_is_in_the_table():
    elsewhere = {  # test_repairs.py, test_compression.py
        name for name, it in discover("model_defence").items() if it.facts.get("repairs") or it.facts.get("compresses")
    }
    missing = sorted(set(discover("model_defence")) - {*CALLS, *ELSEWHERE} - elsewhere)
    assert not missing, f"add a short call of each to CALLS in {__file__}: {', '.join(missing)}"


POOL = Dataset(oracles.noise_images(200).x, np.arange(200, dtype=np.int32) % 5, tuple("abcde"), "to be fitted on")


@functools.cache
def protected(text):
    return build("model_defence", text).protect(KEY, oracles.tiny()[0], POOL)


def images():
    """Those of the tiny model, a black one and a white one."""
    return np.concatenate(
        [as_unit(oracles.tiny()[1].x[:14]), np.zeros((1, 8, 8, 1)), np.ones((1, 8, 8, 1))], dtype="f4"
    )


@functools.cache
def answers(text, seed=0):
    return predict(protected(text), images(), key=jax.random.key(seed))


@every_preprocessing
def test_what_the_model_sees_is_an_image(text):
    front = protected(text).params[1]
    keys = jax.random.split(KEY, 16) if front.stochastic else None
    seen = jax.jit(jax.vmap(front.transform))(keys, images())
    assert seen.shape == images().shape and np.all(np.isfinite(seen))
    assert np.min(seen) >= 0 and np.max(seen) <= 1


@every_defence
def test_gradients_pass_without_a_change_of_the_logits(text):
    """To the bit, with the same key; finite and not zero for each image that is not all black or white."""
    model = protected(text)
    past = model.replace(net=model.net.approximated) if hasattr(model.net, "approximated") else model
    np.testing.assert_array_equal(predict(past, images()), answers(text))

    def gradient(key, x):
        return jax.grad(lambda x: jax.nn.log_softmax(past.keyed(key)(x))[0])(x)

    found = np.asarray(jax.jit(jax.vmap(gradient))(jax.random.split(KEY, 16), images()))
    assert np.all(np.isfinite(found)) and np.any(found[:14], axis=(1, 2, 3)).all()


@every_defence
def test_the_twin_is_the_undefended_model(text):
    model, _ = oracles.tiny()
    twin = protected(text).twin
    assert twin.net == model.net
    for name, value in model.params.items():
        np.testing.assert_array_equal(twin.params[name], value)


@every_defence
def test_the_same_key_gives_the_same_bits_and_another_one_others_where_it_matters(text):
    again = answers.__wrapped__(text)
    np.testing.assert_array_equal(again, answers(text))
    assert protected(text).stochastic == (not np.array_equal(answers(text, 1), again))


@every_defence
def test_what_is_fitted_depends_on_the_key_alone(text):
    other = build("model_defence", text).protect(KEY, oracles.tiny()[0], POOL)
    assert other.net == protected(text).net
    for one, two in zip(*map(jax.tree.leaves, (other.params, protected(text).params)), strict=True):
        np.testing.assert_array_equal(one, two)


@every_defence
def test_neighbours_and_order_do_not_matter(text):
    rows = np.random.default_rng(0).permutation(16)
    moved = judge._logits(jax.random.key(0), protected(text), rows, images()[rows])
    np.testing.assert_allclose(moved, answers(text)[rows], atol=2e-5)


@every_defence
def test_new_weights_and_numbers_compile_nothing(text):
    answers.__wrapped__(text)
    compiled = judge._logits._cache_size()
    inner, front = protected(text).params
    other = jax.tree.map(lambda value: value * 1.1, inner), jax.tree.map(_other, front)
    predict(protected(text).replace(params=other), images(), key=jax.random.key(3))
    assert judge._logits._cache_size() == compiled


def _other(value):
    """Another number or array, near to it and of its type."""
    whole = jnp.issubdtype(jnp.result_type(value), jnp.integer)
    return (value - 1 if isinstance(value, int) else value) if whole else value * 0.9


def brighter(params, x):
    """Which of two channels is the brighter one."""
    difference = params * (jnp.mean(x[..., 0]) - jnp.mean(x[..., 1]))
    return jnp.stack([difference, -difference])


HALVES = np.array([4, 8, 12, 17, 39, 46, 53, 60, -4, -8, -12, -17, -39, -46, -53, -60])  # of the difference, in levels
EVEN = Dataset(
    np.broadcast_to((128 + np.stack([HALVES, -HALVES], -1))[:, None, None], (16, 8, 8, 2)).astype(np.uint8),
    (HALVES < 0).astype(np.int32),
    ("first", "second"),
    "two even channels",
)


@every_answering
def test_an_attack_that_knows_breaks_a_model_at_its_exact_radius(text):
    """Even images stay even: whatever a defence does to them, the brighter channel stays the brighter one, and the
    exact Linf radius is half of the difference. Asked for within a factor of 1.5: defences have steps and noise, and an
    attack on a random one stops where a few draws err, which may not be most of them: it has three starts.
    """
    model = build("model_defence", text).protect(KEY, Classifier(brighter, jnp.float32(10.0)), EVEN)
    assert np.all(classify(model, EVEN.x) == EVEN.y)
    knows = "eot(bpda(pgd(steps=10, restarts=3)), samples=4)" if model.stochastic else "bpda(pgd(steps=10))"
    found = drive(KEY, build("attack", knows), model, build("budget", "linf(26/255)"), EVEN.x, EVEN.y)
    np.testing.assert_array_equal(found.success, abs(HALVES) < 26)
