"""Audits by many trainings and from inside: what they see, and private trainings that keep no promise."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.bench import records
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.bench.collisions import collisions
from robustbench_jax.cli import main
from robustbench_jax.defences.training import dp_sgd
from robustbench_jax.models import build_model
from robustbench_jax.models.per_example import clipped_sum
from robustbench_jax.ops.accounting import guarantee
from robustbench_jax.registry import build
from robustbench_jax.threats import repeated_audit, white_box_audit
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import UserError
from tests import oracles

KEY = jax.random.key(0)
RECIPE = build("recipe", "sgd(epochs=4, batch_size=20, learning_rate=0.1, weight_decay=0, schedule='constant')")


def images(count=200, seed=0):
    return oracles.noise_images(count, (6, 6, 1), 4, seed)


class Trainer:
    """Trains a linear model, privately or not; each training has noise of its own."""

    def __init__(self, text):
        self.defence, self.count = build("training", text), 0

    def __call__(self, data, *, controller=None):
        self.count += 1
        key = jax.random.fold_in(KEY, self.count)
        defence = self.defence if controller is None else controller(self.defence)
        model = build_model("mlp([])", data.x.shape[1:], len(data.classes), jax.random.key(7))
        model = model.replace(params=model.params | {"head/kernel": 0 * model.params["head/kernel"]})
        return defence.fit(key, model, data, RECIPE)[0]

    def several(self, data, rows):
        return tuple(self(data.rows(own)) for own in rows)


def lab(text, claimed=None, count=200):
    trainer = Trainer(text)
    claim = build("training", claimed or text)
    promise = (lambda n: claim.guarantee(RECIPE, n)) if hasattr(claim, "guarantee") else None
    return Lab(KEY, images(count), images(40, 1), trainer, fit_shadows=trainer.several, guarantee=promise)


def inside(made, canaries=120):
    attack, budget = build("attack", "gradient_canaries(share=0.4)"), build("budget", f"canaries({canaries})")
    return white_box_audit.run(KEY, made, images(40, 1), attack, budget)


def many(made, runs=40, text="multi_run_audit(images=100)"):
    return repeated_audit.run(KEY, made, images(40, 1), build("attack", text), build("budget", f"runs({runs})"))


def alarms(found, attack, budget):
    cell = make_cell(dataset="fashion_mnist_mini", model="mlp([])", defence="dp_sgd", attack=attack, budget=budget)
    return collisions([records.record_of(cell, found, records.Timing(compile_s=0, run_s=0), {})])


def test_a_true_promise_is_not_refuted_from_inside_and_its_canaries_are_seen():
    found = inside(lab("dp_sgd(noise=0.8)"))
    assert found.metrics["membership_auc"].value > 0.6 and found.counts["steps_seen"] == 40
    assert (
        found.metrics["epsilon_lower"].value <= found.metrics["epsilon_gaussian"].value < found.metrics["epsilon"].value
    )
    assert not alarms(found, "gradient_canaries", "canaries(120)")


def test_scores_are_likelihood_ratios_of_what_is_left_of_the_sums():
    """Against a computation of our own, step by step."""
    attack, included = build("attack", "gradient_canaries"), np.array([True, False, True])
    witness = attack.witness(KEY, included)
    promised, clip, share = guarantee(1.0, 0.25, 2, 1e-5), 2.0, 0.5
    rng, expected = np.random.default_rng(0), np.zeros(3)
    for step in range(2):
        summed = {"a": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32), "b": jnp.zeros(3)}
        drawn = np.array([True, True, step == 1])
        given = witness.insert(summed, drawn, clip)
        noise = {name: rng.normal(size=value.shape) for name, value in given.items()}
        added = np.concatenate([np.asarray(given[name] - summed[name]).ravel() for name in "ab"])
        assert sorted(added)[-3:] == pytest.approx(sorted(clip * (included & drawn)), abs=1e-6)
        assert np.sum(np.abs(added) > 1e-6) == np.sum(included & drawn)
        witness.see({name: share * (value + noise[name]) for name, value in given.items()}, clip, promised, share)
        for name, (of, at) in witness.places.items():
            x = (included & drawn)[of] + noise[name].ravel()[at] / clip
            expected[of] += np.log(0.75 + 0.25 * np.exp(x - 0.5))
    np.testing.assert_allclose(witness.seen, expected, rtol=1e-4, atol=1e-5)
    places = np.concatenate([at + (20 if name == "b" else 0) for name, (_, at) in witness.places.items()])
    assert len(set(places.tolist())) == 3


def test_too_little_noise_is_an_alarm(monkeypatch):
    """A noise of 2.5 is promised and 15% of it is added."""
    promise = dp_sgd.DPSGD.guarantee
    true = promise(build("training", "dp_sgd(noise=2.5)"), RECIPE, 200)
    monkeypatch.setattr(dp_sgd, "_update", _quieter(dp_sgd._update, 0.15))
    found = inside(lab("dp_sgd(noise=2.5)"))
    assert found.metrics["epsilon"].value == pytest.approx(true.epsilon)
    assert "epsilon is at least" in alarms(found, "gradient_canaries", "canaries(120)")[0]


def _quieter(update, by):
    def changed(key, params, state, summed, scale, **given):
        return update(key, params, state, summed, (by * scale[0], scale[1]), **given)

    return changed


def test_all_examples_in_every_step_of_a_training_that_says_it_samples_is_an_alarm(monkeypatch):
    honest = inside(lab("dp_sgd(noise=2.5)"))
    assert not alarms(honest, "gradient_canaries", "canaries(120)")
    monkeypatch.setattr(dp_sgd, "_drawn", lambda key, rate, images: np.ones(images, bool))
    found = inside(lab("dp_sgd(noise=2.5)"))
    assert alarms(found, "gradient_canaries", "canaries(120)")


def test_clipping_the_mean_in_the_place_of_each_gradient_is_an_alarm(monkeypatch):
    """Among dark images, whose gradients are small, the canary's is most of the mean."""

    @partial(jax.jit, static_argnames=("net", "method", "copies", "augmentation"))
    def mean_clipped(key, params, x, y, counted, norm, *, net, **given):
        summed, *_ = clipped_sum(net, params, x[:, None] / 255.0, y, counted, 1e9, "vmap")
        size = jnp.sqrt(sum(jnp.sum(v**2) for v in summed.values())) / jnp.maximum(counted.sum(), 1)
        return jax.tree.map(lambda v: v * jnp.minimum(1.0, norm / size), summed), jnp.zeros(2)

    monkeypatch.setattr(dp_sgd, "clipped_part", mean_clipped)
    batches = build("recipe", "sgd(epochs=4, batch_size=50, learning_rate=0.1, weight_decay=0, schedule='constant')")
    monkeypatch.setattr(f"{__name__}.RECIPE", batches)
    made = lab("dp_sgd(clip=0.25, noise=8.0)")
    data = oracles.noise_images(100, (12, 12, 1), 4)
    made = dataclasses.replace(
        made, data=dataclasses.replace(data, x=data.x // 16), test=oracles.noise_images(40, (12, 12, 1), 4, 1)
    )
    found = repeated_audit.run(
        KEY, made, made.test, build("attack", "multi_run_audit(images=100)"), build("budget", "runs(40)")
    )
    assert alarms(found, "multi_run_audit", "runs(40)")


def test_trainings_that_promise_nothing_are_told_apart_without_an_error():
    found = many(lab("standard"), 20, "multi_run_audit(images=60, copies=2)")
    assert found.metrics["guesses_right"].value == 1.0 and "epsilon" not in found.metrics
    from robustbench_jax.ops.error_rates import epsilon_lower_errors

    assert found.metrics["epsilon_lower"].value == pytest.approx(epsilon_lower_errors(0, 10, 0, 10, 1e-5, 2))
    assert found.artefacts["scores_with"].min() > found.artefacts["scores_without"].max()


def test_the_threshold_comes_from_one_half_of_the_runs_and_the_bound_from_the_other():
    """Chosen on what it is judged by, noise shows a loss where there is none."""
    attack = build("attack", "multi_run_audit")
    assert attack.threshold(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.5
    assert attack.threshold(np.array([0.0, 5.0]), np.array([2.0, 3.0])) == 1.0  # one error, not two
    found = many(lab("dp_sgd(noise=8.0)"), 40, "multi_run_audit(images=40)")
    scores = [found.artefacts[f"scores_{side}"] for side in ("without", "with")]
    limit = attack.threshold(scores[0][:20], scores[1][:20])
    errors = np.sum(scores[0][20:] > limit) + np.sum(scores[1][20:] <= limit)
    assert found.metrics["guesses_right"].value == pytest.approx(1 - errors / 40)
    assert found.metrics["guesses_right"].n == 40


def test_the_verb_and_what_is_wrong_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data, test = images(), images(40, 1)
    np.savez("data.npz", x_train=data.x, y_train=data.y, x_test=test.x, y_test=test.y, classes=list("abcd"))

    def run(*arguments):
        own = ("--dataset", 'npz("data.npz")', "--model", "mlp([])", "--recipe", "sgd(epochs=1, batch_size=20)")
        return main(["privacy", *own, *arguments])

    private = ("--defence", "dp_sgd(noise=1.0)", "--out", "out")
    for _ in range(2):  # what a witness saw is not stored with the weights: a second time it sees it again
        assert run("--attack", "gradient_canaries", "--budget", "canaries(20)", *private) == 0
        assert run("--attack", "multi_run_audit(50)", "--budget", "runs(4)", *private) == 0
    found, _ = records.read_all(tmp_path / "out")
    from robustbench_jax.bench import privacy_table

    rows = privacy_table.sheets(found)[0].rows
    assert len(rows) == 2 and {row[0].split(" ")[0] for row in rows} == {"gradient_canaries", "multi_run_audit(50)"}
    capsys.readouterr()
    for arguments, message in (
        (("gradient_canaries", "canaries(20)"), "gradient_canaries: 'standard' adds up no clipped gradients"),
        (("gradient_canaries", "canaries(900)", "--defence", "dp_sgd"), "canaries(900): the model has 148 weights"),
        (
            ("gradient_canaries(bound='best')", "canaries(9)"),
            "gradient_canaries: bound = 'best'; there are: binomial, fdp",
        ),
        (("multi_run_audit(images=900)", "runs(4)"), "images = 900: there are 200 training images"),
        (("multi_run_audit(copies=0)", "runs(4)"), "multi_run_audit: copies = 0 must be greater than 0"),
        (("multi_run_audit", "runs(3)"), "runs: n = 3 must be even"),
        (("multi_run_audit", "canaries(4)"), "takes no budget 'canaries'"),
        (("one_run_audit(bound='gdp')", "canaries(20)"), "one_run_audit: bound = 'gdp'; there are: binomial, fdp"),
    ):
        assert run("--attack", arguments[0], "--budget", *arguments[1:]) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1


def test_a_witness_is_no_argument_of_call_strings():
    with pytest.raises(UserError, match="has no argument 'witness'"):
        build("training", "dp_sgd(witness=1)")
