"""EOT and BPDA: what they equal, what they count, and what only they break."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.drive import attack_batch, drive
from robustbench_jax.ops.gradients import ascent
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.losses import cross_entropy
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.ops.straight_through import PastRounding
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, Problem, UserError
from tests import oracles

NARROW = Runtime(width=8)


def attacked(attack, model, data, eps=0.05, budget="linf"):
    attack = build("attack", attack) if isinstance(attack, str) else attack
    ball = build("budget", f"{budget}({eps})")
    return drive(jax.random.key(0), attack, model, ball, data.x, data.y, runtime=NARROW)


@dataclass(frozen=True)
class Noisy:
    """The linear oracle behind noise."""

    stochastic = True

    def __call__(self, params, x, key):
        noise = params["noise"] * jax.random.normal(key, x.shape)
        return oracles.affine(params, x + noise)


@pytest.mark.parametrize("attack", ["pgd(steps=4)"])
def test_eot_of_a_deterministic_model_is_the_attack_itself(attack, tiny):
    model, data = tiny
    plain, averaged = attacked(attack, model, data), attacked(f"eot({attack}, samples=7)", model, data)
    for name in ("success", "x_adv", "forwards", "gradients"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(averaged, name))


def test_eot_counts_every_draw(linear):
    model = Classifier(Noisy(), linear.model.params | {"noise": 1e-3})
    found = attacked("eot(pgd(steps=3), samples=5)", model, linear.data.take(8), eps=1e-4)
    np.testing.assert_array_equal(found.forwards, 15)
    np.testing.assert_array_equal(found.gradients, 15)


def test_the_draws_that_eot_counts_are_made(linear):
    made = []

    class Net(Noisy):
        def __call__(self, params, x, key):
            jax.debug.callback(lambda _: made.append(1), jax.random.uniform(key))
            return super().__call__(params, x, key)

    model = Classifier(Net(), linear.model.params | {"noise": 0.1}).keyed(jax.random.key(0))
    x, y = as_unit(linear.data.x[0]), jnp.asarray(linear.data.y[0])
    problem = Problem(model, build("budget", "linf(0.1)"), "untargeted", x, y, jnp.int32(-1), jnp.int32(0))
    kernel = build("attack", "eot(pgd(steps=3), samples=6)")
    state = kernel.step(jax.random.key(1), problem, kernel.init(jax.random.key(0), problem))
    jax.effects_barrier()
    assert (len(made), int(state.forwards), int(state.gradients)) == (6, 6, 6)


def test_eot_takes_the_mean_of_the_gradients_of_the_losses(linear):
    model = Classifier(Noisy(), linear.model.params | {"noise": 2.0}).keyed(jax.random.key(0))
    x, y = as_unit(linear.data.x[0]), jnp.asarray(linear.data.y[0])
    problem = Problem(model, build("budget", "linf(0.1)"), "untargeted", x, y, jnp.int32(-1), jnp.int32(0))
    averaged = build("attack", "eot(pgd, samples=9)").seen(jax.random.key(1), problem)
    gradient, logits = jax.jit(lambda x: ascent(averaged, cross_entropy, x))(x)

    @jax.jit
    def alone(key):
        return ascent(problem.replace(model=model.keyed(jax.random.split(key)[0])), cross_entropy, x)

    each = [alone(key) for key in averaged.model.keys]
    np.testing.assert_allclose(gradient, np.mean([g for g, _ in each], axis=0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(logits, np.mean([answer for _, answer in each], axis=0), rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Fickle:
    """Linear scores, each draw times a random number of mean 1: single gradients mostly point the wrong way."""

    stochastic = True

    def __call__(self, params, x, key):
        sign = 1.0 + 6.0 * jax.random.normal(key)
        logits = oracles.affine(params, x)
        return jax.lax.stop_gradient(logits) + sign * (logits - jax.lax.stop_gradient(logits))


def test_eot_breaks_a_randomised_model_that_a_single_draw_does_not(linear):
    model, eps = Classifier(Fickle(), linear.model.params), 1.05 * float(np.median(linear.distance("linf")))
    single = attacked("pgd(steps=10)", model, linear.data, eps)
    averaged = attacked("eot(pgd(steps=10), samples=200)", model, linear.data, eps)
    breakable = linear.distance("linf") < 0.9 * eps
    assert averaged.success[breakable].mean() > 0.9
    assert single.success[breakable].mean() < averaged.success[breakable].mean() - 0.15


def test_eot_over_noise_has_the_gradient_of_the_image(linear):
    """On a linear model noise changes no gradient of the margin, so the attack is as exact as without."""
    eps = float(np.median(linear.distance("linf")))
    found = attacked("eot(pgd(steps=5, loss='margin'), samples=3, over=linf(0.01))", linear.model, linear.data, eps)
    expected = linear.distance("linf") < eps
    assert (found.success == expected).mean() > 0.95


@pytest.mark.slow
def test_eot_over_turns_survives_turning_better_than_the_plain_attack(small_cnn):
    model, data = small_cnn
    ball, turns = build("budget", "linf(0.04)"), build("budget", "rotation_translation(20, 1)")

    def share(attack):
        made = build("attack", attack)
        x_adv = attack_batch(jax.random.key(0), made, model, ball, data.x, data.y, np.arange(len(data)))

        def wrong(key, x, y):
            return jnp.argmax(model(turns.render(x, turns.sample(key, x)))) != y

        keys = jax.random.split(jax.random.key(1), 20)
        return float(jnp.mean(jax.vmap(jax.vmap(wrong, (None, 0, 0)), (0, None, None))(keys, x_adv, data.y)))

    assert share("eot(pgd(steps=10), samples=10, over=rotation_translation(20, 1))") > share("pgd(steps=10)")


@pytest.mark.parametrize("wrapper", ["eot", "bpda"])
def test_what_uses_no_gradients_is_refused(wrapper):
    with pytest.raises(UserError, match=f"{wrapper}: attack = uniform_noise uses no gradients"):
        build("attack", f"{wrapper}(uniform_noise)")


@dataclass(frozen=True)
class Quantised:
    """The linear oracle behind a preprocessing to few levels, shown as a front."""

    levels: int = 64
    cast: bool = False

    def front(self, params, x):
        if self.cast:
            return (x * self.levels + 0.5).astype(jnp.uint8).astype(jnp.float32) / self.levels
        return jnp.round(x * self.levels) / self.levels

    def back(self, params, x):
        return oracles.affine(params, x)

    def __call__(self, params, x):
        return self.back(params, self.front(params, x))


@pytest.mark.parametrize("form", ["front", "rounding"])
@pytest.mark.parametrize("cast", [False, True])
def test_bpda_breaks_a_quantised_model_that_plain_pgd_does_not(form, cast, linear):
    model, eps = Classifier(Quantised(cast=cast), linear.model.params), 2.0 * float(np.median(linear.distance("linf")))
    clean = np.argmax(jax.vmap(model)(as_unit(linear.data.x)), -1) == linear.data.y
    plain = attacked("pgd(steps=10, random_start=False)", model, linear.data, eps)
    passed = attacked(f"bpda(pgd(steps=10), backward='{form}')", model, linear.data, eps)
    assert plain.success[clean].mean() == 0 and plain.vanished.sum() == plain.gradients.sum()
    breakable = clean & (linear.distance("linf") < 0.6 * eps)
    assert passed.success[breakable].all()


def test_bpda_leaves_the_forward_pass_as_it_is_to_the_bit(linear):
    model, x = Classifier(Quantised(), linear.model.params), as_unit(linear.data.x[0])
    np.testing.assert_array_equal(PastRounding(model)(x), model(x))
    np.testing.assert_array_equal(jax.jit(PastRounding(model).__call__)(x), jax.jit(model.__call__)(x))


def test_rounding_inside_compiled_functions_and_signs_are_passed_too():
    @jax.jit
    def inner(x):
        return jnp.floor(3 * x)

    def net(params, x):
        return jnp.stack([jnp.sum(params * inner(x)), jnp.sum(jnp.sign(x - 0.5)), jnp.sum(jax.nn.relu(x))])

    model, x = Classifier(net, jnp.float32(2.0)), jnp.linspace(0, 0.9, 5)
    jacobian = jax.jacobian(PastRounding(model))(x)
    np.testing.assert_allclose(jacobian[0], 6.0)
    np.testing.assert_allclose(jacobian[1], 1.0)
    np.testing.assert_allclose(jacobian[2], jax.grad(lambda x: jnp.sum(jax.nn.relu(x)))(x))


def test_bpda_with_the_model_itself_as_surrogate_is_the_attack_itself(tiny):
    model, data = tiny
    wrapped = build("attack", "bpda(pgd(steps=4))").replace(surrogate=Loaded(model))
    plain, found = attacked("pgd(steps=4)", model, data), attacked(wrapped, model, data)
    np.testing.assert_array_equal(plain.success, found.success)
    np.testing.assert_allclose(plain.x_adv, found.x_adv, atol=1e-6)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A trained model that need not be loaded."""

    model: Classifier

    def load(self):
        return self.model, {}


@pytest.mark.slow
def test_eot_and_bpda_compose_either_way(linear):
    model, eps = Classifier(Quantised(), linear.model.params), 2.0 * float(np.median(linear.distance("linf")))
    over = "over=linf(0.01), samples=4"
    for text in (f"eot(bpda(pgd(steps=5)), {over})", f"bpda(eot(pgd(steps=5), {over}))"):
        found = attacked(text, model, linear.data.take(16), eps)
        assert found.success[linear.distance("linf")[:16] < 0.5 * eps].all(), text
