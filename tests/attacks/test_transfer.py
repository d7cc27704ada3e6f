"""Transfer attacks: what they equal, what they may ask, and the peers' numbers on the same weights."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.evasion.di_fgsm import resized
from robustbench_jax.attacks.evasion.ti_fgsm import blur
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.gradients import Ensemble, ascent
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.losses import cross_entropy
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build, canonical
from robustbench_jax.types import Classifier, Problem, UserError
from tests import oracles

NARROW = Runtime(width=16)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A trained model that need not be loaded."""

    model: Classifier

    def load(self):
        return self.model, {}


def attacked(attack, model, data, eps=0.05, pool=None):
    attack = build("attack", attack) if isinstance(attack, str) else attack
    ball = build("budget", f"linf({eps})")
    return drive(jax.random.key(0), attack, model, ball, data.x, data.y, pool=pool, runtime=NARROW)


def transferred(attack, *sources, fusion="logits"):
    made = build("attack", f"transfer({attack}, fusion='{fusion}', train='mlp')")
    return made.replace(train="", sources=tuple(map(Loaded, sources)))


@pytest.mark.parametrize("attack", ["pgd(steps=6)", "mi_fgsm(steps=4)"])
def test_transfer_from_the_target_itself_breaks_what_the_white_box_attack_breaks(attack, tiny):
    model, data = tiny
    white, black = attacked(attack, model, data), attacked(transferred(attack, model), model, data)
    assert white.success.any() and not white.success.all()
    np.testing.assert_array_equal(black.success | ~white.success, True)


def test_transfer_asks_the_target_nothing_before_it_hands_in(tiny):
    model, data = tiny
    asked = []

    def net(params, x):
        asked.append(1)
        return model.net(params, x)

    target = Classifier(net, model.params)
    kernel = transferred("pgd(steps=3)", model).prepare(
        jax.random.key(0), model, build("budget", "linf(0.05)"), data.x, data.y, NARROW
    )
    x, y = as_unit(data.x[0]), jnp.asarray(data.y[0])
    problem = Problem(target, build("budget", "linf(0.05)"), "untargeted", x, y, jnp.int32(-1), jnp.int32(0))
    state = kernel.step(jax.random.key(1), problem, kernel.init(jax.random.key(0), problem))
    assert not asked and int(state.forwards) == int(state.gradients) == 0 and int(state.inner.gradients) == 1


def test_the_surrogates_being_fooled_ends_nothing(tiny):
    """Every step is taken: after 3 and after 6 steps of the inner attack the images differ, success or not."""
    model, data = tiny
    three, six = (attacked(transferred(f"mi_fgsm(steps={n})", model), model, data).x_adv for n in (3, 6))
    assert np.all(np.any(three != six, axis=(1, 2, 3)))


@pytest.mark.parametrize("fusion", ["logits", "probabilities", "loss"])
def test_fusions_average_what_they_say(fusion, tiny):
    model, data = tiny
    other = model.replace(params=jax.tree.map(lambda leaf: -0.5 * leaf, model.params))
    x, y = as_unit(data.x[0]), jnp.asarray(data.y[0])
    ensemble = Ensemble((model, other), fusion)
    problem = Problem(ensemble, build("budget", "linf(0.05)"), "untargeted", x, y, jnp.int32(-1), jnp.int32(0))

    def expected(x):
        each = jnp.stack([model(x), other(x)])
        if fusion == "logits":
            return cross_entropy(each.mean(0), y)
        if fusion == "probabilities":
            return -jnp.log(jax.nn.softmax(each).mean(0)[y])
        return (cross_entropy(each[0], y) + cross_entropy(each[1], y)) / 2

    np.testing.assert_allclose(ascent(problem, cross_entropy, x)[0], jax.grad(expected)(x), rtol=1e-4, atol=1e-6)


def test_surrogates_are_trained_on_the_pool_alone_and_not_alike(linear):
    attack = build(
        "attack", "transfer(pgd(steps=2), train='mlp(widths=[8])', count=2, recipe=sgd(epochs=30, batch_size=16))"
    )
    x, y, model = linear.data.x, linear.data.y, linear.model
    kernel = attack.prepare(jax.random.key(0), model, build("budget", "linf(0.05)"), x, y, NARROW)
    first, second = kernel.surrogates.members
    for member in (first, second):
        assert np.mean(np.argmax(jax.vmap(member)(as_unit(x)), -1) == y) > 0.9
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (first.params, second.params)), strict=True))


def test_bad_sources_are_named():
    with pytest.raises(UserError, match="no sources"):
        build("attack", "transfer(pgd)")
    with pytest.raises(UserError, match="no model 'fashion_mnist/clean/standart' in the zoo; did you mean"):
        build("attack", 'transfer(pgd, sources=[zoo("fashion_mnist/clean/standart")])')
    with pytest.raises(UserError, match="fusion = 'logit'; did you mean 'logits'"):
        build("attack", "transfer(pgd, train='cnn', fusion='logit')")
    model, data = oracles.tiny()
    shipped = build("attack", 'transfer(pgd, sources=[zoo("fashion_mnist/clean/standard")])')
    with pytest.raises(UserError, match=r"does not take images of shape|has other classes"):
        attacked(shipped, model, data)


def test_a_transfer_call_string_can_be_read_again():
    text = canonical("attack", 'transfer(mi_fgsm, sources=[zoo("fashion_mnist/clean/standard")])')
    assert canonical("attack", text) == text and build("attack", text).sources[0].name == "fashion_mnist/clean/standard"


def steps_of(attack, linear, count):
    """Points after each of the first steps from the first image, by the kernel alone."""
    kernel, x, y = build("attack", attack), as_unit(linear.data.x[0]), jnp.asarray(linear.data.y[0])
    budget = build("budget", "linf(0.1)")
    problem = Problem(linear.model, budget, "targeted", x, y, 1 - y, jnp.int32(0))
    state, points = kernel.init(jax.random.key(0), problem), []
    for t in range(count):
        state = kernel.step(jax.random.key(t), problem, state.replace(done=jnp.zeros((), bool)))
        points.append(np.asarray(state.x_adv))
    return state, points


@pytest.mark.parametrize("attack", ["mi_fgsm", "ni_fgsm", "vmi_fgsm(samples=3)", "si_fgsm(copies=2)"])
def test_on_a_linear_model_the_first_step_is_a_tenth_of_fgsm(attack, linear):
    _, points = steps_of(attack, linear, 1)
    x, w = as_unit(linear.data.x[0]), linear.weights.reshape(linear.data.x[0].shape)
    sign = 1 if linear.data.y[0] == 0 else -1
    np.testing.assert_allclose(points[0], x + 0.01 * sign * np.sign(w), atol=1e-6)


def test_velocity_is_a_sum_of_gradients_of_l1_norm_one(linear):
    """The decay is 1 and a linear model's gradient keeps its direction: after t steps the norm is t, not t / D."""
    state, _ = steps_of("mi_fgsm", linear, 3)
    np.testing.assert_allclose(np.abs(np.asarray(state.velocity)).sum(), 3, rtol=1e-3)


def test_the_look_ahead_is_long_enough_to_matter(linear):
    """After t steps in one direction the velocity's mean size is t, and the look-ahead as long as t steps."""
    state, _ = steps_of("ni_fgsm", linear, 2)
    kernel, x = build("attack", "ni_fgsm"), as_unit(linear.data.x[0])
    problem = Problem(linear.model, build("budget", "linf(0.1)"), "untargeted", x, 0, -1, 0)
    length = np.abs(np.asarray(kernel.ahead(problem, state) - state.x_adv)).mean()
    np.testing.assert_allclose(length, 2 * 0.01, rtol=1e-3)


def test_vmi_counts_its_neighbours_and_si_its_copies(linear):
    for attack, each in (("vmi_fgsm(samples=7)", 8), ("si_fgsm(copies=3)", 3)):
        state, _ = steps_of(attack, linear, 2)
        assert (int(state.forwards), int(state.gradients)) == (2 * each, 2 * each)


def test_the_variance_of_a_gradient_that_does_not_change_is_nothing(linear):
    """With the margin a linear model has one gradient everywhere."""
    state, _ = steps_of("vmi_fgsm(samples=4, loss='margin')", linear, 2)
    np.testing.assert_allclose(state.variance, 0, atol=1e-6)


def test_the_blur_is_a_normalised_gaussian_with_zeros_outside():
    dot = jnp.zeros((9, 9, 1)).at[4, 4, 0].set(1.0)
    kernel = np.asarray(blur(dot, 5, 3.0))[..., 0]
    line = np.exp(-0.5 * np.linspace(-3, 3, 5) ** 2)
    expected = np.outer(line, line) / line.sum() ** 2
    np.testing.assert_allclose(kernel[2:7, 2:7], expected, atol=1e-6)
    assert kernel[0].max() == 0
    np.testing.assert_allclose(blur(dot, 1, 3.0), dot, atol=1e-7)
    corner = np.asarray(blur(jnp.ones((9, 9, 1)), 5, 3.0))
    np.testing.assert_allclose(corner[0, 0, 0], expected[2:, 2:].sum(), rtol=1e-5)


def test_resizing_by_one_changes_nothing_and_halving_takes_means():
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 8, 2)), jnp.float32)
    np.testing.assert_allclose(resized(x, jnp.float32(1.0), jnp.zeros(2)), x, atol=1e-6)
    half = np.asarray(resized(x, jnp.float32(0.5), jnp.array([0.0, 0.99])))
    means = np.asarray(x).reshape(4, 2, 4, 2, 2).mean((1, 3))
    np.testing.assert_allclose(half[:4, 4:], means, atol=1e-6)
    assert not half[4:].any() and not half[:, :4].any()


@pytest.mark.parametrize("ours, theirs", [("mi_fgsm", "MIFGSM"), ("ni_fgsm", "NIFGSM"), ("vmi_fgsm", "VMIFGSM")])
def test_the_loss_reached_is_that_of_the_peer_on_the_same_weights(ours, theirs, tiny):
    torch, torchattacks = pytest.importorskip("torch"), pytest.importorskip("torchattacks")
    model, data = tiny
    flat = {name: np.array(value) for name, value in model.params.items()}
    weights, biases = (
        [torch.tensor(flat[f"{layer}/{kind}"]) for layer in ("hidden/0", "head")] for kind in ("kernel", "bias")
    )
    mean = jax.vmap(model)(as_unit(data.x))

    mean_of, std_of = (float(flat[f"normalise/{name}"][0]) for name in ("mean", "std"))

    class Twin(torch.nn.Module):
        def forward(self, x):
            hidden = (x.permute(0, 2, 3, 1).reshape(len(x), -1) - mean_of) / std_of
            for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
                hidden = (torch.relu(hidden) if layer else hidden) @ w + b
            return hidden

    twin, x = Twin(), torch.tensor(np.asarray(as_unit(data.x))).permute(0, 3, 1, 2)
    np.testing.assert_allclose(twin(x).detach(), mean, rtol=1e-3, atol=1e-4)
    eps, steps = 0.05, 10
    peer = getattr(torchattacks, theirs)(twin, eps=eps, alpha=eps / steps, steps=steps, decay=1.0)
    reached = [
        -jax.vmap(cross_entropy)(jax.vmap(model)(jnp.asarray(x)), data.y).mean()
        for x in (
            attacked(transferred(f"{ours}(steps={steps})", model), model, data, eps).x_adv,
            peer(x, torch.tensor(data.y).long()).permute(0, 2, 3, 1).numpy(),
        )
    ]
    np.testing.assert_allclose(reached[0], reached[1], rtol=0.01)
