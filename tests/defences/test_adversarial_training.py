"""Adversarial trainings in one ball: losses against NumPy in float64, examples against the linear oracle, wrappers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from robustbench_jax.defences.training import awp, fast_at, mart
from robustbench_jax.defences.training.finetuned import FineTuned
from robustbench_jax.models import build_model, files
from robustbench_jax.ops import ascent
from robustbench_jax.ops.balls import L2, Linf
from robustbench_jax.ops.losses import cross_entropy
from robustbench_jax.registry import build, canonical
from robustbench_jax.training import TrainingDefence, fit
from robustbench_jax.types import Classifier, Dataset, UserError, record
from tests import oracles

KEY = jax.random.key(0)
IN_ONE_BALL = {
    "adversarial_training": "adversarial_training(pgd(steps=3), {})",
    "trades": "trades({}, steps=3)",
    "mart": "mart({}, steps=3)",
    "hat": "hat({}, steps=3)",
    "fast_at": "fast_at({})",
}


def dense():
    """A network of one hidden layer with large weights, images and labels."""
    model = build_model("mlp([7])", (3, 3, 1), 4, KEY)
    rng = np.random.default_rng(0)
    weights = {name: jnp.asarray(rng.normal(size=v.shape), jnp.float32) for name, v in trained(model).items()}
    x, y = rng.uniform(size=(6, 3, 3, 1)).astype(np.float32), np.array([0, 3, 1, 2, 2, 0])
    return model.replace(params=model.params | weights), jnp.asarray(x), jnp.asarray(y)


def trained(model):
    return model.net.trainable(model.params)


def made_up_logits(copies, batch=6, classes=5, scale=2.0):
    rng = np.random.default_rng(copies)
    return scale * rng.normal(size=(copies, batch, classes)), rng.integers(0, classes, batch)


def objective(defence, logits, y, x=None):
    """The defence's loss of logits [copies, B, C], handed over as training does."""
    made = build("training", defence) if isinstance(defence, str) else defence
    flat = jnp.asarray(logits.reshape(-1, logits.shape[-1]), jnp.float32)
    return float(jax.jit(lambda made, *given: made.objective(KEY, None, None, *given, 0.5))(made, x, flat, y))


def cross_entropies(logits, y):
    return -special.log_softmax(logits, -1)[np.arange(len(y)), y]


def divergences(plain, moved):
    return stats.entropy(special.softmax(plain, -1), special.softmax(moved, -1), axis=-1)


def test_trades_is_the_clean_cross_entropy_and_the_divergence():
    (moved, plain), y = made_up_logits(2)
    expected = cross_entropies(plain, y).mean() + 4 * divergences(plain, moved).mean()
    assert objective("trades(beta=4)", np.stack([moved, plain]), y) == pytest.approx(expected, rel=1e-5)


def test_mart_is_its_margin_and_the_divergence_where_the_image_is_misclassified():
    (attacked, plain), y = made_up_logits(2)
    q, p = special.softmax(attacked, -1), special.softmax(plain, -1)
    others = np.where(np.arange(5) == y[:, None], -1, q).max(-1)
    own = p[np.arange(len(y)), y]
    per_image = -np.log(q[np.arange(len(y)), y]) - np.log(1 - others) + 3 * (1 - own) * divergences(plain, attacked)
    found = objective("mart(beta=3)", np.stack([attacked, plain]), y)
    assert found == pytest.approx(per_image.mean(), rel=1e-5)


def test_the_margin_of_mart_is_exact_where_the_model_is_sure_and_wrong():
    """1 - q is e^-200 here, which is 0 in float32."""
    value, gradient = jax.jit(jax.value_and_grad(lambda z: mart.runner_up(z, jnp.array([1]))[0]))(
        jnp.asarray([[200.0, -50, 0]])
    )
    assert value == 200
    np.testing.assert_allclose(gradient, [[1, 0, -1]], atol=1e-6)


def test_hat_adds_the_helper_images_with_the_labels_of_the_standard_model():
    logits, y = made_up_logits(3, classes=2)
    w = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(18, 3, 3, 1)), jnp.float32)
    helper = Classifier(oracles.affine, {"w": w, "b": jnp.zeros(2)})
    said = np.argmax(np.reshape(x[:6], (6, 9)) @ np.asarray(w), -1)
    assert 0 < said.sum() < 6
    moved, plain, beyond = logits
    expected = cross_entropies(plain, y) + 3 * divergences(plain, moved) + 0.5 * cross_entropies(beyond, said)
    hat = build("training", "hat(beta=3, gamma=0.5)").replace(helper=helper)
    assert objective(hat, logits, y, x) == pytest.approx(expected.mean(), rel=1e-5)


def test_the_helper_of_hat_has_standard_training_and_its_images_lie_beyond_the_ball():
    model, x, y = dense()
    asked = []

    def train(name, model, defence):
        asked.append((name, defence))
        return model

    hat = build("training", "hat(linf(0.1), stretch=3)").prepare(KEY, model, None, train)
    assert asked == [("helper", build("training", "standard"))] and hat.helper is model
    moved, plain, beyond = hat.perturb(KEY, model, x, y, np.arange(6)).reshape(3, *x.shape)
    np.testing.assert_array_equal(plain, x)
    np.testing.assert_allclose(beyond - x, 3 * (moved - x), atol=1e-6)


@pytest.mark.parametrize("ball", ["linf(0.1)", "l2(0.4)", "l1(1.5)"])
def test_the_ascent_of_trades_raises_the_divergence_and_stays_in_ball_and_box(ball):
    model, x, y = dense()
    budget, ids = build("budget", ball), np.arange(6)
    moved = build("training", f"trades({ball})").perturb(KEY, model, x, y, ids)[:6]
    start = ascent.beside(KEY, budget, x, ids, 0.001)
    before, after = (divergences(*(np.float64(jax.vmap(model)(z)) for z in (x, end))) for end in (start, moved))
    assert (after > 10 * before).all() and np.median(after) > 0.01
    sizes = jax.vmap(budget.size)(moved - x)
    assert (sizes <= budget.eps * (1 + 1e-6)).all() and (moved >= 0).all() and (moved <= 1).all()


def test_trades_without_divergence_has_the_gradients_of_clean_training():
    model, x, y = dense()

    def gradients(defence):
        images = defence.perturb(KEY, model, x, y, np.arange(6))

        def loss(weights):
            logits, _ = model.net.train(model.params | weights, images, KEY)
            return defence.objective(KEY, model, x, images, logits, y, 0.0)

        return jax.grad(loss)(trained(model))

    clean = gradients(build("training", "standard"))
    for name, value in gradients(build("training", "trades(linf(0.1), beta=0, steps=2)")).items():
        np.testing.assert_allclose(value, clean[name], atol=1e-6)


def away(linear, dual):
    """The steepest step of L2 or Linf that lowers the right logit, for each image [N, 36]."""
    w = np.where(linear.data.y == 1, -1, 1)[:, None] * linear.weights
    return np.sign(w) if dual == "linf" else w / np.linalg.norm(w, axis=-1, keepdims=True)


@pytest.mark.parametrize("name, eps", [("linf", 0.2), ("l2", 0.25)])
@pytest.mark.parametrize("defence", ["adversarial_training(pgd(steps=10, step_size=2), {})", "mart({}, steps=12)"])
def test_examples_reach_the_far_end_of_the_ball_wherever_the_model_errs_on_the_way(linear, name, eps, defence):
    """On a linear model the worst point is known; a third of the images at least are wrong before it."""
    assert (linear.distance(name) < 0.8 * eps).mean() > 0.3
    x, y = jnp.asarray(linear.data.x / 255, jnp.float32), jnp.asarray(linear.data.y)
    made = build("training", defence.format(f"{name}({eps})"))
    x_adv = made.perturb(KEY, linear.model, x, y, np.arange(len(y)))[: len(y)]
    np.testing.assert_allclose((x_adv - x).reshape(len(y), -1), eps * away(linear, name), atol=3e-3 * eps)


def test_adversarial_training_of_a_linear_model_is_the_loss_of_the_margin_less_eps_times_the_dual_norm(linear):
    """And so it is what bounds by intervals train on: softplus(eps ||w||_1 - margin)."""
    x, y = jnp.asarray(linear.data.x / 255, jnp.float32), jnp.asarray(linear.data.y)
    made = build("training", "adversarial_training(pgd(steps=5, step_size=1), linf(0.05))")
    x_adv = made.perturb(KEY, linear.model, x, y, np.arange(len(y)))
    loss = made.objective(KEY, linear.model, x, x_adv, jax.vmap(linear.model)(x_adv), y, 0.0)
    expected = np.log1p(np.exp(0.05 * np.abs(linear.weights).sum() - linear.margin)).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def weak_and_strong(count=256, side=4):
    """Two classes: four pixels that tell them well, all the others a little, by less than 0.1 and so easily undone."""
    rng, strong = np.random.default_rng(0), np.arange(side**2) < 4
    y = (np.arange(count) % 2).astype(np.int32)
    means = np.where(strong, 0.25, 0.06) * np.where(y == 1, 1, -1)[:, None]
    x = 0.5 + means + np.where(strong, 0.13, 0.03) * rng.normal(size=(count, side**2))
    return Dataset((255 * x.clip(0, 1)).round().astype(np.uint8).reshape(-1, side, side, 1), y, ("0", "1"), "made up")


def robust_share(model, data, eps):
    """The share of images with margin > eps ||w||_1, for a network that is linear."""
    x = jnp.asarray(data.x / 255, jnp.float32)
    logits, slope = jax.vmap(model)(x), jax.jacobian(model)(x[0])
    margin = np.where(data.y == 1, 1, -1) * (logits[:, 1] - logits[:, 0])
    return np.mean(margin > eps * np.abs(slope[1] - slope[0]).sum())


def test_adversarial_training_raises_the_exact_robustness_of_a_linear_model():
    data, recipe = weak_and_strong(side=8), build("recipe", "sgd(epochs=10, batch_size=64, weight_decay=0)")
    shares = []
    for defence in ("standard", "adversarial_training(pgd(steps=2), linf(0.1))"):
        model = build_model("mlp([])", (8, 8, 1), 2, KEY)
        shares.append(robust_share(fit(KEY, model, data, recipe, defence=build("training", defence)), data, 0.1))
    standard, robust = shares
    assert robust > 0.85 and standard < 0.6


def test_the_step_of_fast_at_goes_from_a_random_point_one_and_a_quarter_radii_and_back_into_the_ball(linear):
    x, y, ids = jnp.asarray(linear.data.x / 255, jnp.float32), jnp.asarray(linear.data.y), np.arange(len(linear.data))
    x_adv = build("training", "fast_at(linf(0.08))").perturb(KEY, linear.model, x, y, ids)
    start = np.asarray(ascent.inside(KEY, Linf(0.08), x, ids) - x).reshape(len(y), -1)
    expected = np.clip(start + 0.1 * away(linear, "linf"), -0.08, 0.08)
    np.testing.assert_allclose((x_adv - x).reshape(len(y), -1), expected, atol=1e-6)
    assert stats.kstest(start.ravel(), stats.uniform(-0.08, 0.16).cdf).pvalue > 0.01


def bowl(params, x):
    """Logits whose difference has the gradient params * x."""
    return jnp.stack([jnp.zeros(()), jnp.sum(params * x**2) / 2])


def test_gradalign_is_the_cosine_between_input_gradients_and_zero_for_a_linear_model(linear):
    x, y = jnp.asarray(linear.data.x / 255, jnp.float32), jnp.asarray(linear.data.y)
    misalignment = jax.jit(fast_at.misalignment)
    assert float(misalignment(KEY, linear.model, Linf(0.5), x, y)) == pytest.approx(0, abs=1e-5)
    slope = jnp.asarray(np.random.default_rng(0).normal(size=x.shape[1:]), jnp.float32)
    found = misalignment(KEY, Classifier(bowl, slope), Linf(0.3), x, y)
    moved = np.float64(ascent.inside(KEY, Linf(0.3), x, jnp.arange(len(x))))
    a, b = (np.reshape(np.float64(slope) * z, (len(x), -1)) for z in (np.float64(x), moved))
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert 0.005 < 1 - cosines.mean() and float(found) == pytest.approx(1 - cosines.mean(), rel=1e-4)


def test_gradalign_has_finite_gradients_where_the_input_gradient_is_zero():
    x, y = jnp.full((2, 3, 3, 1), 0.5), jnp.array([0, 1])

    def loss(slope):
        return fast_at.misalignment(KEY, Classifier(bowl, slope), Linf(0.1), x, y)

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.zeros((3, 3, 1)))
    assert value == 1 and (gradient == 0).all()


def squares(weights, batch):
    """An objective with known gradients: sum a w^2 / 2 + sum (b w) * mean of x + (mean of x^2) / 2."""
    clean, x, y = batch
    quadratic = sum(jnp.sum(SCALES[name] * value**2) / 2 for name, value in weights.items())
    return quadratic + jnp.sum(x**2) / 2 + jnp.sum(weights["kernel"]) * jnp.sum(x), ("aux", quadratic)


SCALES = {"kernel": jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.asarray([2.0, 5.0])}
WEIGHTS = {"kernel": jnp.asarray([[0.5, -1.0], [2.0, 0.1]]), "bias": jnp.asarray([1.0, -1.0])}


def combined(defence, batch, memory=()):
    return build("training", defence).combine(KEY, squares, WEIGHTS, batch, memory)


def test_free_at_takes_both_gradients_at_the_perturbed_image_and_moves_on_from_it():
    x = jnp.asarray([[0.5, 0.4], [0.3, 0.99]])
    batch = (x, x, jnp.array([0, 1]))
    first, aux, memory = combined("free_at(replays=1, budget=linf(0.1))", batch, jnp.zeros_like(x))
    plain, _ = jax.grad(squares, has_aux=True)(WEIGHTS, batch)
    assert aux[0] == "aux"
    for name, value in first.items():
        np.testing.assert_allclose(value, plain[name], rtol=1e-6)
    # the gradient of x is x + sum of the kernel = x + 1.6 > 0: up by the radius, and no further than white
    np.testing.assert_allclose(memory, [[0.1, 0.1], [0.1, 0.01]], atol=1e-6)
    second, _, _ = combined("free_at(replays=1, budget=linf(0.1))", batch, memory)
    moved, _ = jax.grad(squares, has_aux=True)(WEIGHTS, (x, x + memory, batch[2]))
    for name, value in second.items():
        np.testing.assert_allclose(value, moved[name], rtol=1e-6)


def test_free_at_with_one_replay_and_a_batch_that_comes_again_is_fgsm_from_the_image(linear):
    """From a perturbation of 0 the second step sees x + eps sign(gradient), as FGSM training does."""
    x, y = jnp.asarray(linear.data.x / 255, jnp.float32), jnp.asarray(linear.data.y)

    def loss(weights, batch):
        _, x, y = batch
        logits = jax.vmap(Classifier(oracles.affine, weights))(x)
        return TrainingDefence().loss(logits, y), (x, None)

    free = build("training", "free_at(replays=1, budget=linf(0.03))")
    _, _, memory = free.combine(KEY, loss, linear.model.params, (x, x, y), free.remember(x))
    _, (seen, _), _ = free.combine(KEY, loss, linear.model.params, (x, x, y), memory)
    fgsm = build("training", "adversarial_training(fgsm, linf(0.03))").perturb(KEY, linear.model, x, y, np.arange(64))
    np.testing.assert_allclose(seen, fgsm, atol=1e-6)


def test_each_batch_of_free_at_is_used_again_before_the_next_one():
    seen = []

    @record
    class Watching(TrainingDefence):
        replays = build("training", "free_at(replays=3)").replays

        def perturb(self, key, model, x, y, ids):
            seen.append(tuple(np.asarray(ids)))
            return x

    data, recipe = weak_and_strong(32), build("recipe", "sgd(epochs=3, batch_size=16)")
    fit(KEY, build_model("mlp([])", (4, 4, 1), 2, KEY), data, recipe, defence=Watching())
    assert seen == [seen[0]] * 3 + [seen[3]] * 3 and set(seen[0] + seen[3]) == set(range(32))


def test_awp_moves_each_layer_by_gamma_of_its_norm_along_its_gradient_and_no_bias():
    upwards = jax.grad(squares, has_aux=True)(WEIGHTS, (None, jnp.ones(2), None))[0]
    moves = awp.displacement(WEIGHTS, upwards, 0.03)
    kernel = np.float64(upwards["kernel"])
    expected = 0.03 * np.linalg.norm(WEIGHTS["kernel"]) * kernel / np.linalg.norm(kernel)
    np.testing.assert_allclose(moves["kernel"], expected, rtol=1e-5)
    assert np.linalg.norm(moves["kernel"]) == pytest.approx(0.03 * np.linalg.norm(WEIGHTS["kernel"]), rel=1e-5)
    assert (moves["bias"] == 0).all()
    still = awp.displacement(WEIGHTS, jax.tree.map(jnp.zeros_like, upwards), 0.03)
    assert all((value == 0).all() for value in still.values())


def test_awp_takes_the_gradient_at_the_moved_weights():
    batch = (jnp.ones(2), jnp.ones(2), jnp.array([0, 1]))
    upwards = jax.grad(squares, has_aux=True)(WEIGHTS, batch)[0]
    moves = awp.displacement(WEIGHTS, upwards, 0.1)
    moved = {name: WEIGHTS[name] + moves[name] for name in WEIGHTS}
    expected = jax.grad(squares, has_aux=True)(moved, batch)[0]
    found, aux, _ = combined("awp(standard, gamma=0.1)", batch)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    assert float(aux[1]) == pytest.approx(float(squares(moved, batch)[1][1]))
    unmoved, _, _ = combined("awp(standard, gamma=0)", batch)
    for name, value in unmoved.items():
        np.testing.assert_allclose(value, upwards[name], rtol=1e-6)


def test_awp_around_free_at_moves_weights_by_the_gradient_at_the_perturbed_image():
    x, memory = jnp.asarray([[0.5, 0.4]]), jnp.asarray([[0.1, -0.1]])
    there = (x, x + memory, jnp.array([0]))
    moves = awp.displacement(WEIGHTS, jax.grad(squares, has_aux=True)(WEIGHTS, there)[0], 0.1)
    expected = jax.grad(squares, has_aux=True)({n: WEIGHTS[n] + moves[n] for n in WEIGHTS}, there)[0]
    found, _, memory = combined("awp(free_at(2, linf(0.2)), gamma=0.1)", (x, x, jnp.array([0])), memory)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    assert (memory != 0).all()


def test_what_awp_adds_to_the_weights_is_gone_after_the_step():
    data, still = weak_and_strong(64), build("recipe", "sgd(epochs=2, batch_size=32, learning_rate=1e-30)")
    start = build_model("mlp([4])", (4, 4, 1), 2, KEY)
    fitted = fit(KEY, start, data, still, defence=build("training", "awp(trades(linf(0.1), steps=1), gamma=0.5)"))
    for name, value in start.params.items():
        np.testing.assert_allclose(fitted.params[name], value, rtol=0, atol=1e-20)


@pytest.mark.parametrize("inner, copies", [("standard", 1), ("adversarial_training", 1), ("trades(beta=4)", 2)])
def test_smoothed_labels_are_those_of_every_cross_entropy_inside(inner, copies):
    logits, y = made_up_logits(copies)
    log = special.log_softmax(logits[-1], -1)
    smooth = 0.7 * np.eye(5)[y] + 0.3 / 5
    expected = -(smooth * log).sum(-1).mean() + (4 * divergences(logits[1], logits[0]).mean() if copies == 2 else 0)
    assert objective(f"label_smoothing({inner}, 0.3)", logits, y) == pytest.approx(expected, rel=1e-5)
    assert objective(f"label_smoothing({inner}, 0)", logits, y) == pytest.approx(objective(inner, logits, y), rel=1e-6)


@record
class Given:
    """A source that is there already."""

    model: Classifier

    def load(self):
        return self.model, {}


def test_finetuned_begins_with_the_weights_of_its_source(tmp_path):
    source = build_model("mlp([4])", (4, 4, 1), 2, jax.random.key(5))
    files.save(tmp_path / "model", source, files.describe(source, "mlp([4])", (4, 4, 1), 2))
    made = build("training", f"finetuned(trades(steps=1), checkpoint('{tmp_path}'))")
    fresh = build_model("mlp([4])", (4, 4, 1), 2, KEY)
    recipe = build("recipe", "sgd(epochs=1, batch_size=32, learning_rate=1e-30)")
    fitted = fit(KEY, fresh, weak_and_strong(32), recipe, defence=made)
    for name, value in source.params.items():
        np.testing.assert_allclose(fitted.params[name], value, rtol=0, atol=1e-20)
    assert made.watched == made.defence.watched


@pytest.mark.parametrize(
    "source, message",
    [
        ("mlp([5])", r"does not fit the architecture: 'head/kernel' is \(5, 2\), \(4, 2\) is expected"),
        ("cnn([[2, 3, 1]], [4])", "does not fit the architecture"),
    ],
)
def test_a_source_of_another_architecture_is_refused_before_anything_is_trained(source, message):
    def train(name, model, defence):
        raise AssertionError("trained too early")

    other, fresh = (build_model(text, (4, 4, 1), 2, KEY) for text in (source, "mlp([4])"))
    with pytest.raises(UserError, match=message):
        FineTuned(build("training", "hat"), Given(other)).prepare(KEY, fresh, None, train)


def test_a_source_whose_weights_only_have_the_same_shapes_is_refused():
    one, two = (build_model(f"cnn([[2, 3, 1, {pads}]], [])", (4, 4, 1), 2, KEY) for pads in ("[0, 2]", "[2, 0]"))
    with pytest.raises(UserError, match="has the weights' shapes, but is another architecture"):
        FineTuned(build("training", "standard"), Given(one)).initialise(two)


@pytest.mark.parametrize(
    "name, ball",
    [(name, "linf(0.1)") for name in IN_ONE_BALL]
    + [("trades", "l2(0.3)"), ("fast_at", "l1(2)"), ("adversarial_training", "l0(3)")],
)
def test_examples_depend_on_ids_alone_and_stay_in_any_ball(name, ball):
    model, x, y = dense()
    made, budget, ids = build("training", IN_ONE_BALL[name].format(ball)), build("budget", ball), np.arange(6) + 3
    whole = made.perturb(KEY, model, x, y, ids)[:6]
    order = np.array([4, 0, 5, 2])
    part = made.perturb(KEY, model, x[order], y[order], ids[order])[:4]
    np.testing.assert_allclose(part, whole[order], atol=1e-6)
    sizes = jax.vmap(budget.size)(whole - x)
    assert (sizes <= budget.eps * (1 + 1e-6)).all() and (sizes > 0).all()
    assert made.watched == (build("attack", "pgd(steps=10)"), budget)


def test_new_radii_steps_and_weights_compile_nothing():
    model, x, y = dense()
    start = x + 0.001
    ascent.ascend(cross_entropy, model, Linf(0.1), x, start, y, 2, 0.5)
    known = ascent.ascend._cache_size()
    other = model.replace(params=jax.tree.map(lambda value: 1.1 * value, model.params))
    ascent.ascend(cross_entropy, other, Linf(0.2), x, start, y, 5, 0.25)
    assert ascent.ascend._cache_size() == known


def test_standard_training_and_wrappers_around_it_watch_nothing():
    for text in ("standard", "awp(standard)", "label_smoothing(gaussian_noise)"):
        assert build("training", text).watched is None
    wrapped = build("training", "label_smoothing(awp(fast_at(l2(0.5))), 0.2)")
    assert wrapped.watched == (build("attack", "pgd(steps=10)"), L2(0.5))
    assert build("training", "awp(free_at(replays=4))").replays == 4


@pytest.mark.parametrize(
    "text, message",
    [
        ("trades(beta=-1)", "trades: beta = -1.0 must be at least 0"),
        ("trades(steps=0)", "trades: steps = 0 must be greater than 0"),
        ("trades(rotation_translation)", r"trades: budget = rotation_translation\(...\) is no norm ball"),
        ("mart(step_size=0)", "mart: step_size = 0.0 must be greater than 0"),
        ("mart(beta=-0.1)", "mart: beta = -0.1 must be at least 0"),
        ("hat(stretch=0)", "hat: stretch = 0.0 must be greater than 0"),
        ("hat(gamma=-1)", "hat: gamma = -1.0 must be at least 0"),
        ("hat(helper=1)", "no argument 'helper'"),
        ("fast_at(step=0)", "fast_at: step = 0.0 must be greater than 0"),
        ("fast_at(align=-1)", "fast_at: align = -1.0 must be at least 0"),
        ("free_at(replays=0)", "free_at: replays = 0 must be greater than 0"),
        ("adversarial_training(autoattack)", "adversarial_training: attack = cascade.* give one attack"),
        ("awp(trades, gamma=-1)", "awp: gamma = -1.0 must be at least 0"),
        ("awp(tardes)", "no training 'tardes'; did you mean 'trades'"),
        ("label_smoothing(trades, 1)", "label_smoothing: amount = 1.0 must be at least 0 and below 1"),
        ("trades(btea=1)", "did you mean 'beta'"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        canonical("training", text)
        build("training", text)
