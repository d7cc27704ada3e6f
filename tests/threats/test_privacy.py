"""Membership and audits as experiments: halves, shadow models, metrics, tables, and a promise that is refuted."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.stats import binom

import robustbench_jax as rb
from robustbench_jax import metrics
from robustbench_jax.bench import privacy_table, records
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.bench.collisions import collisions
from robustbench_jax.bench.workshop import Workshop
from robustbench_jax.cli import main
from robustbench_jax.keys import stream
from robustbench_jax.ops.accounting import guarantee
from robustbench_jax.ops.auditing import epsilon_lower, p_value
from robustbench_jax.registry import build
from robustbench_jax.threats import audit, membership
from robustbench_jax.types import UserError
from tests import oracles

KEY = jax.random.key(0)


def test_pairs_share_the_images_and_more_models_begin_with_the_same():
    found = membership.halves(KEY, 11, 6)
    assert found.shape == (6, 11) and set(found.sum(1)) == {5, 6}
    np.testing.assert_array_equal(found[0::2], ~found[1::2])
    np.testing.assert_array_equal(found[:2], membership.halves(KEY, 11, 2))
    np.testing.assert_array_equal(found.sum(0), np.full(11, 3))


def test_rates_at_few_false_positives_say_what_they_are_of():
    members = np.arange(4000) < 2000
    scores = np.where(members, 0.0, -1.0) + np.linspace(0, 0.1, 4000)
    scores[:100] = 5  # members found for certain
    scores[2000:2003] = 9  # three false alarms above all: 0.15% of the others
    found = metrics.membership(scores, members)
    assert found["membership_tpr_01"].value == 0 and found["membership_fpr_01"].value <= 0.001
    assert found["membership_tpr_1"].value == 1.0 and found["membership_fpr_1"].value == pytest.approx(0.0015)
    assert found["membership_tpr_001"].value is None  # 2,000 others tell no rate of 0.01% from 0
    assert found["membership_auc"].value > 0.99 and found["membership_tpr_1"].n == 2000


def images(count=400):
    return oracles.noise_images(count, (6, 6, 1), 4)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train, test = images(), oracles.noise_images(60, (6, 6, 1), 4, 1)
    np.savez("data.npz", x_train=train.x, y_train=train.y, x_test=test.x, y_test=test.y, classes=list("abcd"))
    return tmp_path


RUN = (
    "--dataset",
    'npz("data.npz")',
    "--model",
    "mlp([128])",
    "--recipe",
    "adamw(epochs=60, batch_size=20, learning_rate=0.01)",
)


def run(*arguments):
    return main(["privacy", *RUN, *arguments])


def test_a_model_that_learns_noise_by_heart_is_found_out_and_the_record_says_so(place, capsys):
    code = run("--attack", "lira", "--budget", "shadows(4)", "--out", "out", "--save-images", "--json")
    record = records.Record.model_validate_json(capsys.readouterr().out)
    assert code == 0 and record.cell.threat == "membership" and "carlini2022" in record.papers
    found = record.metrics
    assert found["membership_auc"].value > 0.9 and found["train_accuracy"].value > found["held_out_accuracy"].value
    assert found["train_accuracy"].n == found["held_out_accuracy"].n == 200
    with np.load(place / "out" / "arrays" / f"{record.id}.npz") as kept:
        assert kept["members"].sum() == 200 and kept["scores"].shape == (400,)
    assert (place / "out" / "images" / f"{record.id}.png").read_bytes().startswith(b"\x89PNG")


def test_shadow_models_are_trained_once_for_all_attacks_and_seeds(place):
    def trained():
        return {path.parent.parent.name for path in (place / "out" / "victims").rglob("model.json")}

    run("--attack", "lira", "--budget", "shadows(4)", "--out", "out")
    first = trained()
    run("--attack", "rmia", "--budget", "shadows(2)", "--out", "out")
    assert trained() == first and len(first) == 5
    run("--attack", "lira", "--budget", "shadows(4)", "--out", "out", "--seed", "1")
    assert len(trained() - first) == 1


def test_shadow_models_of_a_stack_are_those_that_are_trained_alone(place, tmp_path):
    cell = make_cell(
        dataset='npz("data.npz")', model="mlp([8])", recipe="sgd(epochs=1, batch_size=20)", attack="lira",
        budget="shadows(4)",
    )  # fmt: skip
    rows = [np.flatnonzero(own) for own in membership.halves(KEY, 400, 4)]
    together = Workshop(tmp_path / "a").lab(cell)
    stack = together.fit_shadows(together.data, rows)
    alone = [Workshop(tmp_path / "b").lab(cell).fit_shadows(together.data, [own])[0] for own in rows[:1]]
    for name, value in alone[0].params.items():
        np.testing.assert_allclose(stack[0].params[name], value, rtol=1e-4, atol=1e-5)


def test_poisons_are_in_whatever_is_trained_and_only_targets_are_scored():
    """Of a model that learns every row by heart: copies with a wrong label outvote an image that is there once."""
    from robustbench_jax.threats.lab import Lab

    given, data = [], images(100)

    def fit(rows):
        given.append(rows)
        return Fake()(rows)

    def fit_shadows(pool, parts):
        assert len(pool) == 100 + 2 * 20 and len({len(part) for part in parts}) == 1
        return tuple(fit(pool.rows(part)) for part in parts)

    lab = Lab(KEY, data, images(60), fit, fit_shadows=fit_shadows)
    attack, budget = build("attack", "truth_serum(loss_threshold, copies=2, targets=20)"), build("budget", "shadows(4)")
    found = membership.run(KEY, lab, images(60), attack, budget)
    rows, pool = membership.planned(attack, data)
    assert all(len(one) == 50 + 40 and np.array_equal(one.x[50:], pool.x[100:]) for one in given) and len(given) == 5
    assert found.artefacts["scores"].shape == (20,) and found.metrics["membership_auc"].value == 1.0
    np.testing.assert_array_equal(found.artefacts["members"], membership.halves(stream(KEY, "halves"), 100, 2)[0][rows])
    plain = membership.planned(build("attack", "lira"), data)
    assert plain[1] is data and np.array_equal(plain[0], np.arange(100))


def test_p_values_of_audits_are_those_of_their_definition():
    """Pure privacy: the tail of a binomial; with delta, the largest of the shifted means is added."""
    assert p_value(100, 40, 30, 1.0, 0.0) == pytest.approx(binom.sf(29, 40, 1 / (1 + np.exp(-1))))
    chance, delta = 1 / (1 + np.exp(-1)), 1e-3
    worst = max(sum(binom.pmf(30 - j, 40, chance) for j in range(1, i + 1)) / i for i in range(1, 31))
    assert p_value(100, 40, 30, 1.0, delta) == pytest.approx(binom.sf(29, 40, chance) + 2 * 100 * delta * worst)
    assert p_value(10, 0, 0, 1.0, 0.1) == 1.0
    with pytest.raises(UserError, match="cannot have 5 of 4 guesses right"):
        p_value(10, 4, 5, 1.0, 0.0)


def test_bounds_of_audits_are_below_the_truth_as_often_as_they_say():
    """Randomised response is exactly epsilon-private: each guess is right with e^eps / (1 + e^eps)."""
    rng, truth = np.random.default_rng(0), 1.5
    right = rng.binomial(200, 1 / (1 + np.exp(-truth)), 400)
    bounds = np.array([epsilon_lower(200, 200, int(r), 0.0) for r in right])
    assert np.mean(bounds > truth) <= 0.075 and np.median(bounds) > 1.1
    assert epsilon_lower(100, 100, 50, 1e-5) == 0.0
    assert epsilon_lower(1000, 200, 200, 1e-5) < epsilon_lower(10000, 2000, 2000, 1e-9)


class Fake:
    """A lab's training that learns every row by heart, whatever it promises."""

    def __init__(self):
        self.rows = []

    def __call__(self, data, **given):
        from tests.attacks.test_membership import remembering

        self.rows.append(len(data))
        return remembering(data, np.arange(len(data)), 30.0)


def test_training_that_promises_more_than_it_keeps_is_refuted(place):
    from robustbench_jax.threats.lab import Lab

    promise = guarantee(50.0, 0.1, 10, 1e-5)
    lab = Lab(KEY, images(), images(60), Fake(), guarantee=lambda count: promise)
    attack, budget = build("attack", "one_run_audit(0.4)"), build("budget", "canaries(200)")
    found = audit.run(KEY, lab, images(60), attack, budget)
    assert "delta 1e-05, noise 50, rate 0.1, 10 steps; pld, dp-accounting" in found.metrics["epsilon"].definition
    assert promise.epsilon < 0.5 < found.metrics["epsilon_lower"].value
    assert 280 < lab.fit.rows[0] < 320 and found.artefacts["included"].sum() + 200 == lab.fit.rows[0]
    cell = make_cell(
        dataset='npz("data.npz")', model="mlp([8])", defence="dp_sgd", attack="one_run_audit", budget="canaries(200)"
    )
    record = records.record_of(cell, found, records.Timing(compile_s=0, run_s=0), {})
    assert "epsilon is at least" in collisions([record])[0] and "promised to be 0." in collisions([record])[0]
    kept = dataclasses.replace(found, metrics=found.metrics | {"epsilon": metrics.number("epsilon", 50.0, 1)})
    assert not collisions([records.record_of(cell, kept, records.Timing(compile_s=0, run_s=0), {})])


def test_canaries_have_wrong_labels_and_guesses_are_as_many_as_was_said():
    attack = build("attack", "one_run_audit(0.1)")
    data = images(50)
    x, y = attack.plant(KEY, data.x, data.y, 4)
    assert np.all(y != data.y) and set(y) == {0, 1, 2, 3} and np.array_equal(x, data.x)
    said = attack.guesses(np.arange(50.0))
    assert np.all(said[-5:] == 1) and np.all(said[:5] == -1) and not said[5:-5].any()


def test_the_tables_have_a_row_for_each_attack_and_each_audit(place, capsys):
    run("--attack", "loss_threshold", "--budget", "shadows(0)", "--out", "out")
    run("--attack", "one_run_audit", "--budget", "canaries(100)", "--out", "out")
    found, damaged = records.read_all(place / "out")
    pages = privacy_table.sheets(found)
    assert not damaged and [page.title.split(" · ")[2] for page in pages] == [
        "membership inference",
        "audit of privacy",
    ]
    assert len(pages[0].rows) == 1 and pages[0].rows[0][4] == "–" and pages[1].rows[0][2] == "–"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--attack", "lira", "--budget", "shadows(0)"), "'lira' needs at least 2 shadow models"),
        (("--attack", "lira", "--budget", "canaries(10)"), "takes no budget 'canaries'"),
        (("--attack", "badnets", "--budget", "rate(0.1)"), "belongs to 'backdoor'; see the verb poison"),
        (("--attack", "pgd", "--budget", "linf(0.1)"), "belongs to 'evasion'; see the verb attack"),
        (("--attack", "one_run_audit", "--budget", "canaries(300)"), "at most half may be canaries"),
        (("--attack", "one_run_audit(0.7)", "--budget", "canaries(30)"), "share = 0.7 must be above 0"),
        (("--attack", "one_run_audit", "--budget", "canaries(1)"), "canaries: n = 1 must be at least 2"),
    ],
)
def test_wrong_input_is_one_line(place, capsys, arguments, message):
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1


def test_from_python_it_is_one_call_and_other_functions_say_so(place):
    given = {"recipe": "adamw(epochs=2, batch_size=20)", "directory": "victims"}
    record = rb.privacy("mlp([8])", 'npz("data.npz")', "loss_threshold", "shadows(0)", **given)
    assert record.metrics["membership_auc"].n == 400
    shared = rb.privacy("mlp([8])", 'npz("data.npz")', "analytic", "gradients(1)", examples=3, **given)
    assert shared.metrics["reconstruction_psnr"].value > 50
    with pytest.raises(UserError, match=r"belongs to 'membership'; use privacy\(\)"):
        rb.poison("mlp([8])", 'npz("data.npz")', "loss_threshold", "shadows(0)")
    with pytest.raises(UserError, match=r"belongs to 'backdoor'; use poison\(\)"):
        rb.privacy("mlp([8])", 'npz("data.npz")', "badnets", "rate(0.1)")
    with pytest.raises(UserError, match=r"belongs to 'audit'; use privacy\(\)"):
        rb.attack(rb.build_model("mlp([8])", (6, 6, 1), 4, KEY), images(), "one_run_audit", "canaries(10)")


def test_so_little_noise_that_it_promises_nothing_is_no_number(place):
    """An infinite epsilon is none: it is in no record, and no audit refutes it."""
    record = rb.privacy(
        "mlp([8])", 'npz("data.npz")', "one_run_audit", "canaries(40)", defence="dp_sgd(noise=0.01)",
        recipe="sgd(epochs=1, batch_size=20)", directory="victims",
    )  # fmt: skip
    assert record.metrics["epsilon"].value is None and not collisions([record])
    assert "noise 0.01" in record.metrics["epsilon"].definition
