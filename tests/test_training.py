"""Training: resumption bit for bit, images held out, early stopping, stacks of models, averages of weights,
augmentation, and what goes wrong.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from robustbench_jax import fitting, training
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.models.blocks import Dense, batch_norm, flatten
from robustbench_jax.models.net import Net
from robustbench_jax.ops import runtime
from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import build, canonical
from robustbench_jax.stacks import fit_many, fit_many_with_curves
from robustbench_jax.steps import augmented
from robustbench_jax.training import TrainingDefence, fit, fit_with_curve, hold_out
from robustbench_jax.types import Classifier, Dataset, UserError, record

SHAPE = (4, 4, 1)
STANDARD = build("training", "standard")


def images(count: int = 48) -> Dataset:
    """Two classes: bright above, bright below."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    x = rng.integers(0, 120, (count, *SHAPE), np.uint8)
    x[y == 0, :2] += 100
    x[y == 1, 2:] += 100
    return Dataset(x, y.astype(np.int32), ("above", "below"), "halves")


def fresh(seed: int = 0):
    return build_model("mlp([6])", SHAPE, 2, jax.random.key(seed))


def trained(recipe: str, data=None, seed: int = 1, **options):
    return fit(jax.random.key(seed), fresh(), data or images(), build("recipe", recipe), defence=STANDARD, **options)


def same(a, b) -> bool:
    return all(np.array_equal(a.params[name], b.params[name]) for name in a.params)


class Killed(Exception):
    pass


class Normed(nnx.Module):
    """A dense layer, batch norm, a dense layer."""

    def __init__(self, rngs):
        self.first, self.norm = Dense(16, 6, rngs=rngs), batch_norm(6, rngs)
        self.head = Dense(6, 2, last=True, rngs=rngs)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.norm(self.first(flatten(x)))))


def normed(seed: int = 0) -> Classifier:
    return Classifier(*Net.split(Normed(nnx.Rngs(seed))))


@record
class Busy(TrainingDefence):
    """Noise, two steps a batch, gradients with a memory, and an attack to watch."""

    scale: float = 0.05
    replays = 2

    @property
    def watched(self):
        return build("attack", "pgd(steps=2)"), build("budget", "linf(0.2)")

    def remember(self, x):
        return jnp.zeros(())

    def perturb(self, key, model, x, y, ids):
        return x + self.scale * jax.random.normal(key, x.shape)

    def combine(self, key, objective, weights, batch, memory):
        gradients, aux = jax.grad(objective, has_aux=True)(weights, batch)
        memory = 0.5 * memory + 0.1 * sum(jnp.mean(g) for g in gradients.values())
        return {name: g + memory for name, g in gradients.items()}, aux, memory


class Witness(TrainingDefence):
    """Notes which images and weights it sees; with a teacher that does the same."""

    def __init__(self, taught: bool = False):
        self.taught, self.images, self.weights = taught, [], []

    def prepare(self, key, model, data, train):
        if self.taught:
            train("teacher", model, other := Witness())
            self.images += other.images
        return self

    def perturb(self, key, model, x, y, ids):
        self.images += list(np.asarray(x))
        self.weights.append(model.params)
        return x


jax.tree_util.register_pytree_node(Witness, lambda w: ((), None), lambda *_: Witness())


def bytes_of(images) -> set[bytes]:
    return {np.ascontiguousarray(image).tobytes() for image in images}


def test_it_learns_what_can_be_learnt():
    data = images()
    model = trained("sgd(epochs=30, batch_size=8)")
    assert np.mean(classify(model, data.x) == data.y) == 1
    assert same(model, trained("sgd(epochs=30, batch_size=8)"))
    assert not same(model, trained("sgd(epochs=30, batch_size=8)", seed=2))


@pytest.mark.parametrize("after", [1, 20, 40])
def test_a_run_that_was_killed_goes_on_to_the_same_weights_bit_for_bit(tmp_path, after):
    recipe = "sgd(epochs=12, batch_size=8, augmentation='crop_flip', ema=0.9)"

    def stop(progress):
        if progress.step >= after:
            raise Killed

    with pytest.raises(Killed):
        trained(recipe, directory=tmp_path, report=stop)
    seen = []
    resumed = trained(recipe, directory=tmp_path, report=lambda progress: seen.append(progress.step))
    assert same(resumed, trained(recipe)) and (not seen or min(seen) >= after // 6 * 6)


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path):
    recipe = "sgd(epochs=5, batch_size=8)"
    whole = trained(recipe, directory=tmp_path)
    newest = max((path for path in tmp_path.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=f"checkpoint {newest.name} .* is damaged and passed over"):
        again = trained(recipe, directory=tmp_path)
    assert same(again, whole)


@pytest.mark.parametrize("average", ["ema=0.9", "swa=0.4"])
def test_a_run_that_is_killed_anywhere_ends_with_the_same_curve_and_weights_bit_for_bit(tmp_path, monkeypatch, average):
    monkeypatch.setattr(training, "EVERY", 1)
    recipe = build("recipe", f"sgd(epochs=5, batch_size=8, augmentation='flip', holdout=16, keep='best', {average})")

    def run(**options):
        return Busy().fit(jax.random.key(1), normed(), images(), recipe, **options)

    def kill(after):
        def stop(progress):
            if progress.step >= after:
                raise Killed

        return stop

    for after in (3, 4, 7, 13, 18):
        with pytest.raises(Killed):
            run(directory=tmp_path, report=kill(after))
    model, curve = run(directory=tmp_path)
    whole, expected = run()
    assert same(model, whole) and curve.steps == 4 and expected.steps == 20
    assert replace(curve, steps=0) == replace(expected, steps=0)
    assert len(set(curve.loss)) == 5 and None not in (curve.clean, curve.robust)


def test_the_curve_has_the_means_of_what_was_reported(monkeypatch):
    monkeypatch.setattr(training, "EVERY", 1)
    seen, recipe = [], build("recipe", "sgd(epochs=3, batch_size=8)")
    _, curve = STANDARD.fit(jax.random.key(1), fresh(), images(), recipe, report=seen.append)
    for name in ("loss", "accuracy"):
        means = np.reshape([getattr(progress, name) for progress in seen], (3, 6)).mean(1)
        np.testing.assert_allclose(getattr(curve, name), means, rtol=1e-6)
    assert curve.clean is None and curve.robust is None and curve.kept == 3 and curve.flags == ()


def test_images_held_out_are_drawn_by_key_and_neither_the_model_nor_a_teacher_is_trained_on_them():
    data, recipe, key = images(), build("recipe", "sgd(epochs=2, batch_size=8, holdout=16)"), jax.random.key(1)
    witness = Witness(taught=True)
    fit(key, fresh(), data, recipe, defence=witness)
    kept, held = hold_out(key, len(data), recipe)
    unit = data.x.astype(np.float32) / 255
    assert len(held) == 16 and sorted([*kept, *held]) == list(range(48))
    assert len(witness.images) == 2 * 2 * 32 and bytes_of(witness.images) == bytes_of(unit[kept])
    assert not np.array_equal(held, hold_out(jax.random.key(2), len(data), recipe)[1])


def test_the_best_epoch_by_held_out_accuracy_is_what_is_kept():
    rng = np.random.default_rng(3)
    noise = Dataset(images().x, rng.integers(0, 2, 48).astype(np.int32), ("a", "b"), "noise")
    recipe, key = build("recipe", "sgd(epochs=8, batch_size=8, holdout=16, keep='best')"), jax.random.key(1)
    witness = Witness()
    model, curve = fit_with_curve(key, fresh(), noise, recipe, defence=witness)
    assert curve.kept - 1 == np.argmax(curve.clean) and curve.kept < 8 and max(curve.clean) > curve.clean[-1]
    after = witness.weights[4 * curve.kept]
    assert all(np.array_equal(model.params[name], after[name]) for name in after)
    held = hold_out(key, 48, recipe)[1]
    assert np.mean(classify(model, noise.x[held]) == noise.y[held]) == pytest.approx(max(curve.clean))


def test_equal_averages_are_means_of_the_weights_after_each_step():
    recipe = "epochs=2, batch_size=8, learning_rate=0.05, schedule='constant'"
    witness, data = Witness(), images()
    last = fit(jax.random.key(1), fresh(), data, build("recipe", f"sgd({recipe})"), defence=witness)
    average = trained(f"sgd({recipe}, swa=0.5)")
    for name, value in average.params.items():
        expected = np.mean([w[name] for w in [*witness.weights[7:], last.params]], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_after_equal_averaging_batch_norm_has_the_statistics_of_the_training_images():
    data, recipe = images(), build("recipe", "sgd(epochs=2, batch_size=8, swa=0.5)")
    params = fit(jax.random.key(1), normed(), data, recipe, defence=STANDARD).params
    seen = (data.x / 255).reshape(6, 8, 16) @ np.asarray(params["first/kernel"]) + np.asarray(params["first/bias"])
    np.testing.assert_allclose(params["norm/mean"], seen.mean(1).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(params["norm/var"], seen.var(1).mean(0), rtol=1e-4, atol=1e-5)


def test_what_is_watched_is_reported_and_a_collapse_is_said_once(monkeypatch):
    robust = iter([0.4, 0.6, 0.5, 0.1, 0.0])
    monkeypatch.setattr(fitting, "validate", lambda *_: (0.875, next(robust)))
    seen, recipe = [], build("recipe", "sgd(epochs=5, batch_size=8, holdout=16)")
    _, curve = Busy().fit(jax.random.key(1), fresh(), images(), recipe, report=seen.append)
    np.testing.assert_allclose(curve.robust, [0.4, 0.6, 0.5, 0.1, 0.0])
    assert [progress.step for progress in seen] == [4, 8, 12, 16, 20]
    assert [progress.robust for progress in seen] == list(curve.robust) and seen[0].clean == 0.875
    said = [progress.warning for progress in seen]
    assert said[3].startswith("catastrophic overfitting: robust accuracy on held-out images fell from 0.600 in epoch 2")
    assert said == ["", "", "", said[3], ""] and curve.flags == (said[3],)


def test_a_stack_holds_out_averages_and_keeps_the_best_as_each_model_alone():
    data = images()
    recipe = build("recipe", "sgd(epochs=4, batch_size=8, holdout=16, keep='best', swa=0.4, learning_rate=0.02)")
    models = [normed(seed) for seed in range(3)]
    stack = models[0].replace(params=jax.tree.map(lambda *p: jnp.stack(p), *(m.params for m in models)))
    many, curves = fit_many_with_curves(
        jax.random.split(jax.random.key(5), 3), stack, data, recipe, defence=Busy(), at_once=True
    )
    for i, model in enumerate(models):
        alone, curve = fit_with_curve(jax.random.split(jax.random.key(5), 3)[i], model, data, recipe, defence=Busy())
        assert curves[i].kept == curve.kept and curves[i].clean == curve.clean and curves[i].robust == curve.robust
        np.testing.assert_allclose(curves[i].loss, curve.loss, rtol=1e-4)
        for name, value in alone.params.items():
            np.testing.assert_allclose(many.params[name][i], value, rtol=1e-3, atol=1e-5)


def test_no_look_and_no_end_of_an_epoch_is_within_a_span_of_steps(monkeypatch):
    monkeypatch.setattr(training, "EVERY", 4)
    recipe, key = build("recipe", "sgd(epochs=2, batch_size=8)"), jax.random.key(3)
    one = [(step, rows[0]) for step, rows in training.batches(key, 56, recipe, 1, 2)]
    assert [step for step, _ in one] == list(range(2, 14))
    spans = list(training.batches(key, 56, recipe, 1, 2, room=4))
    assert [(step, len(rows)) for step, rows in spans] == [(3, 2), (6, 3), (7, 1), (11, 4), (13, 2)]
    assert np.array_equal(np.concatenate([rows for _, rows in spans]), np.stack([rows for _, rows in one]))


def test_steps_that_are_one_program_are_those_of_one_after_another(monkeypatch):
    data, recipe = images(), build("recipe", "sgd(epochs=3, batch_size=8, augmentation='crop_flip', ema=0.9)")
    together, curve = fit_with_curve(jax.random.key(1), fresh(), data, recipe, defence=STANDARD)
    monkeypatch.setattr(training, "room_for", lambda *_: 1)
    each, expected = fit_with_curve(jax.random.key(1), fresh(), data, recipe, defence=STANDARD)
    np.testing.assert_allclose(curve.loss, expected.loss, rtol=1e-5)
    for name, value in each.params.items():
        np.testing.assert_allclose(together.params[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_stack_of_models_is_trained_as_each_alone(at_once):
    data, recipe = images(), build("recipe", "sgd(epochs=3, batch_size=8)")
    keys, subsets = jax.random.split(jax.random.key(5), 3), np.stack([np.arange(32), np.arange(16, 48), np.arange(32)])
    models = [fresh(seed) for seed in range(3)]
    stack = models[0].replace(params=jax.tree.map(lambda *p: jnp.stack(p), *(m.params for m in models)))
    many = fit_many(keys, stack, data, recipe, defence=STANDARD, subsets=subsets, at_once=at_once)
    for i, model in enumerate(models):
        part = Dataset(data.x[subsets[i]], data.y[subsets[i]], data.classes, data.name)
        alone = fit(jax.random.split(jax.random.key(5), 3)[i], model, part, recipe, defence=STANDARD)
        for name, value in alone.params.items():
            np.testing.assert_allclose(many.params[name][i], value, rtol=1e-4, atol=1e-6)


def test_an_error_in_one_training_ends_those_beside_it(monkeypatch):
    monkeypatch.setattr(training, "EVERY", 1)
    monkeypatch.setattr(runtime, "cores", lambda: 2)
    data, recipe, seen = images(), build("recipe", "sgd(epochs=400, batch_size=8)"), []
    stack = fresh().replace(params=jax.tree.map(lambda p: jnp.stack([p] * 3), fresh().params))

    def stop(progress):
        seen.append(progress.step)
        if len(seen) == 20:
            raise Killed

    with pytest.raises(Killed):
        fit_many_with_curves(
            jax.random.split(jax.random.key(5), 3), stack, data, recipe, defence=STANDARD, at_once=False, report=stop
        )
    assert max(seen) < 2400


def test_the_average_of_the_weights_is_the_exponential_one():
    one_step = "epochs=1, batch_size=48, learning_rate=0.05, schedule='constant'"
    start, last = fresh(), trained(f"sgd({one_step})")
    average = trained(f"sgd({one_step}, ema=0.9)")
    for name, value in average.params.items():
        np.testing.assert_allclose(value, 0.9 * start.params[name] + 0.1 * last.params[name], rtol=1e-5, atol=1e-7)


def test_flips_mirror_some_images_and_crops_shift_them_by_an_eighth_of_the_side():
    x = np.random.default_rng(0).integers(1, 256, (32, 8, 8, 3), np.uint8)
    unit = x.astype(np.float32) / 255
    key = stream(jax.random.key(0), "augment")
    flipped = np.asarray(augmented(key, x, "flip"))
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, unit, strict=True)])
    kept = np.array([np.array_equal(a, b) for a, b in zip(flipped, unit, strict=True)])
    assert np.all(mirrored ^ kept) and 4 < mirrored.sum() < 28
    shifts = set()
    for cropped, image in zip(np.asarray(augmented(key, x, "crop")), unit, strict=True):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
        places = [(i, j) for i in range(3) for j in range(3) if np.array_equal(cropped, padded[i : i + 8, j : j + 8])]
        assert len(places) == 1
        shifts.add(places[0])
    assert len(shifts) > 5
    np.testing.assert_array_equal(augmented(key, x, "none"), unit)


def test_a_loss_that_is_no_number_ends_the_training():
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+: lower the learning rate"):
        trained("sgd(epochs=20, batch_size=8, learning_rate=1e30, schedule='constant')")


def test_a_batch_larger_than_the_data_is_named():
    with pytest.raises(UserError, match="batch_size = 100: there are 48 to train on"):
        trained("sgd(batch_size=100)")


def test_images_held_out_that_leave_no_batch_are_named():
    with pytest.raises(UserError, match="holdout = 41: of 48 training examples that leaves less than one batch of 8"):
        trained("sgd(batch_size=8, holdout=41)")


def test_recipes_without_the_newer_options_have_the_identity_that_they_had():
    expected = "adamw(epochs=3, batch_size=128, learning_rate=0.001, weight_decay=0.0001, schedule='one_cycle', "
    assert canonical("recipe", "adamw(3, swa=0.0)") == expected + "augmentation='none', ema=0.0)"
    assert canonical("recipe", "adamw(3, holdout=5)") == expected + "augmentation='none', ema=0.0, holdout=5)"


@pytest.mark.parametrize(
    "text, message",
    [
        ("sgd(schedule='cosin')", "did you mean 'cosine'"),
        ("sgd(augmentation='crops')", "did you mean 'crop'"),
        ("sgd(ema=1.0)", "ema = 1.0 must be at least 0 and below 1"),
        ("adamw(epochs=0)", "epochs = 0"),
        ("sgd(keep='bets', holdout=10)", "did you mean 'best'"),
        ("sgd(keep='best')", "keep = 'best' needs images to judge by"),
        ("sgd(swa=1.0)", "swa = 1.0 must be at least 0 and below 1"),
        ("sgd(ema=0.9, swa=0.5)", "one average or the other"),
        ("sgd(holdout=-1)", "holdout = -1 must be at least 0"),
    ],
)
def test_wrong_recipes_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("recipe", text)


@pytest.mark.parametrize("inner", ["dp_sgd", "partitioned(partitions=2)", "federated(mean, clients=2)", "abl"])
def test_a_loop_of_its_own_is_never_passed_over_by_what_is_around_it(inner):
    """awp(dp_sgd) would train without privacy."""
    defence, recipe = build("training", f"awp({inner})"), build("recipe", "sgd(epochs=3, batch_size=8)")
    with pytest.raises(UserError, match=r"has a training loop of its own, and cannot be inside 'awp'"):
        training.fit(jax.random.key(0), fresh(), images(), recipe, defence=defence)
