"""Ownership: p-values, what a verifier may see, and verdicts on models with known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import robustbench_jax as rb
from robustbench_jax import metrics
from robustbench_jax.bench import ownership_table, records
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.cli import main
from robustbench_jax.models import build_model
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ownership import Mark, Owner, Removal, Service, Suspect, rank_p_value, statistic
from robustbench_jax.registry import build
from robustbench_jax.threats import ownership
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Classifier, Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
SHAPE, CLASSES = (6, 6, 1), 4


def nearest(params, x):
    """The label of the nearest image that was learnt by heart."""
    away = jnp.sum((params["x"] - x) ** 2, (1, 2, 3))
    return jax.nn.one_hot(params["y"][jnp.argmin(away)], CLASSES) * 10.0


def remembering(data: Dataset) -> Classifier:
    return Classifier(nearest, {"x": as_unit(jnp.asarray(data.x)), "y": jnp.asarray(data.y)})


class Trainer:
    """Learns everything by heart, the mark's triggers with it."""

    def __init__(self, mark: Mark):
        self.mark, self.asked = mark, []

    def __call__(self, data, *, controller=None, surrogate=None):
        self.asked.append((data, surrogate))
        if surrogate is not None:
            return remembering(data)
        x, y = self.mark.triggers(data)
        return remembering(Dataset(np.concatenate([data.x, x]), np.concatenate([data.y, y]), data.classes, data.name))

    def shadows(self, data, rows):
        self.rows = rows
        return tuple(remembering(data.rows(own)) for own in rows)


def images(count=200, seed=0) -> Dataset:
    return oracles.noise_images(count, SHAPE, CLASSES, seed)


def lab(text="trigger_set(images=40)", **parts):
    mark = build("training", text)
    trainer = Trainer(mark)
    return Lab(KEY, images(), images(50, 1), trainer, owned=mark, fit_shadows=trainer.shadows, **parts)


def outcome(attack, text="trigger_set(images=40)", budget="images(64)"):
    made = lab(text)
    return ownership.run(KEY, made, made.test, build("attack", attack), build("budget", budget)), made


def value(found, name):
    return found.metrics[name].value


def test_p_values_are_uniform_over_exchangeable_models_and_never_too_small():
    """Of 40 exchangeable statistics the first has each rank as often: P(p <= k / 40) = k / 40."""
    drawn = np.random.default_rng(0).normal(size=(4000, 40))
    p = np.array([rank_p_value(row[0], row[1:]) for row in drawn])
    for level in (0.05, 0.25, 0.5):
        assert np.mean(p <= level) == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 4000))
    assert p.min() == 1 / 40


def test_ties_count_against_the_claim_and_a_null_without_spread_is_no_exception():
    null = np.full(39, 0.25)
    assert rank_p_value(0.25, null) == 1.0 and rank_p_value(0.26, null) == 1 / 40
    coarse = np.random.default_rng(1).integers(0, 3, (4000, 40))
    assert np.mean([rank_p_value(row[0], row[1:]) <= 0.05 for row in coarse]) <= 0.05
    assert statistic(np.zeros(0, bool)) == 0.0


def test_a_verifier_sees_what_the_access_allows():
    model = build_model("mlp([8])", SHAPE, CLASSES, KEY)
    x = images(5).x
    labels, scores, weights = (Suspect(model, access) for access in ("labels", "scores", "weights"))
    assert set(np.unique(labels.ask(x))) == {0.0, 1.0}
    np.testing.assert_array_equal(scores.ask(x), weights.ask(x))
    assert labels.queries == 5 and weights.weights is model.params
    for blind in (labels, scores):
        with pytest.raises(PermissionError, match="sees no weights"):
            blind.weights  # noqa: B018


def test_a_model_that_memorised_the_triggers_is_verified_and_one_that_was_not_stolen_is_not():
    found, _ = outcome("no_removal")
    assert value(found, "watermark_success") == value(found, "watermark_before") == 1.0
    assert value(found, "p_value") == 1 / 40 and value(found, "verified") == 1 and value(found, "removed") == 0
    assert value(found, "null_max") < 0.6 and found.artefacts["null"].shape == (39,)
    innocent, _ = outcome("independent")
    assert value(innocent, "verified") == 0 and value(innocent, "p_value") > 0.05
    assert value(innocent, "removed") is None  # nothing was stolen


def test_nobody_else_has_an_image_of_the_owners():
    _, made = outcome("independent")
    owned, world = ownership.halves(len(made.data))
    assert not set(owned) & set(world) and len(owned) + len(world) == len(made.data)
    trained = made.fit.asked
    np.testing.assert_array_equal(trained[0][0].x, made.data.x[owned])
    assert [surrogate for _, surrogate in trained] == [None, 1, 0]
    theirs = {image.tobytes() for image in made.data.x[world]}
    assert {image.tobytes() for image in trained[1][0].x} <= theirs
    assert all(set(rows) <= set(world) and len(rows) == 80 for rows in made.fit.rows)
    assert len({tuple(rows) for rows in made.fit.rows}) == ownership.NULLS


class Lost(Removal):
    """Forgets the triggers, and some share of the classes with them."""

    facts = {"threat": "ownership", "access": "weights"}
    registered = ("attack", "lost")

    def __init__(self, share):
        self.share = share

    def remove(self, key, thief):
        x, y = (np.asarray(thief.stolen.params[name])[:100] for name in "xy")
        wrong = np.where(np.arange(len(y)) < self.share * len(y), (y + 1) % CLASSES, y)
        return Classifier(nearest, {"x": jnp.asarray(x), "y": jnp.asarray(wrong)})


@pytest.mark.parametrize("share, removed", [(0.0, 1), (0.5, 0)])
def test_a_mark_is_removed_only_where_accuracy_stays(share, removed):
    made = lab()
    owned, _ = ownership.halves(len(made.data))
    data = made.data.rows(owned)
    found = ownership.run(KEY, made, data, Lost(share), build("budget", "images(64)"))
    assert value(found, "verified") == 0 and value(found, "removed") == removed
    assert value(found, "accuracy_lost") == pytest.approx(share, abs=0.01)
    assert value(found, "marked_accuracy") == 1.0


def test_what_the_marked_model_itself_does_not_meet_cannot_be_removed():
    nothing = np.zeros(10, bool)
    right = {"own": np.ones(4, bool), "left": np.ones(4, bool)}
    found = ownership.judged(nothing, nothing, np.zeros((39, 10), bool), right)
    assert found["removed"].value is None and found["p_value"].value == 1.0
    none = ownership.judged(np.zeros(0, bool), np.zeros(0, bool), np.zeros((39, 0), bool), right)
    assert none["verified"].value == 0 and none["watermark_success"].value is None


def test_one_question_more_than_models_that_all_answer_alike_is_not_enough():
    null = np.tile(np.arange(100) < 11, (39, 1))
    one_more, many_more = np.arange(100) < 12, np.arange(100) < 30
    own = ownership.statistics(null)
    assert rank_p_value(statistic(one_more), own) == 1 / 40 and not ownership.is_verified(one_more, null)
    assert ownership.is_verified(many_more, null)
    spread = np.arange(100) < np.linspace(0, 40, 39)[:, None]
    assert not ownership.is_verified(many_more, spread)


def test_of_numbers_the_interval_is_that_of_the_difference_at_each_question():
    """Questions differ by far more than models do: 0.1 more at each of them is seen, 0.1 more at one is not."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 5, 200)
    null = hard + rng.normal(0, 0.05, (39, 200))
    suspect = hard + 0.1 + rng.normal(0, 0.05, 200)
    assert np.std(suspect) / np.sqrt(200) > 0.3 and ownership.is_verified(suspect, null)
    assert not ownership.is_verified(hard + 0.1 * (np.arange(200) == 0), null)
    assert not ownership.is_verified(null[0], null[1:])


def test_every_metric_is_defined():
    found, _ = outcome("no_removal")
    assert set(found.metrics) <= set(metrics.DEFINITIONS)


def test_a_service_gives_what_the_mark_lets_out_and_remembers_it():
    data, mark = images(400), build("training", "dawn(rate=0.1)")
    service = Service(remembering(data), mark)
    said, again = service.ask(data.x).argmax(-1), service.ask(data.x[::-1]).argmax(-1)[::-1]
    np.testing.assert_array_equal(said, again)  # to ask twice gives nothing away
    wrong = said != data.y
    assert 20 <= wrong.sum() <= 65  # 40 expected
    x, y = mark.claim(Owner(service.model, data, data, tuple(service.asked)))
    assert len(x) == wrong.sum() and sorted(y) == sorted(said[wrong])
    copied = remembering(Dataset(data.x, said, data.classes, "copy"))
    assert statistic(mark.evidence((x, y), Suspect(copied, "labels"))) == 1.0
    assert statistic(mark.evidence((x, y), Suspect(service.model, "labels"))) == 0.0
    assert len(mark.claim(Owner(service.model, data, data))[0]) == 0


@pytest.mark.parametrize(
    "attack, budget, message",
    [
        ("no_removal", "images(101)", "there are 100 training images that are not the owner's"),
        ("fine_tune_all", "images(32)", "'fine_tune_all' trains in batches of 64; give at least that"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_training(attack, budget, message):
    made = lab()
    with pytest.raises(UserError, match=message):
        ownership.run(KEY, made, made.test, build("attack", attack), build("budget", budget))
    assert not made.fit.asked


def test_a_training_that_leaves_no_mark_is_refused():
    made = Lab(KEY, images(), images(50), None, owned=build("training", "standard"))
    with pytest.raises(UserError, match="is no mark; name one such as trigger_set"):
        ownership.run(KEY, made, made.test, build("attack", "no_removal"), build("budget", "images(64)"))


def cell(**changes):
    given = {"model": "mlp([8])", "dataset": "fashion_mnist_mini", "defence": "trigger_set", "attack": "no_removal"}
    return make_cell(**given | {"budget": "images(100)"} | changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"defence": "standard"}, "defence = 'standard' is no mark of ownership; there are: .*trigger_set"),
        ({"defence": "trigger_set(image=3)"}, "has no argument 'image'; did you mean 'images'"),
        ({"defence": "uchids"}, "no training 'uchids'; did you mean 'uchida'"),
        ({"budget": "images(0)"}, "images: n = 0 must be at least 1"),
        ({"budget": "rate(0.1)"}, "attack 'no_removal' takes no budget 'rate'"),
        ({"model_defence": "bit_depth(3)"}, "threat 'ownership' has no use for it"),
        ({"model": "fashion_mnist/clean/standard", "defence": ""}, "is trained already"),
    ],
)
def test_a_cell_that_cannot_be_run_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        cell(**changes)


def test_other_verbs_say_where_it_belongs(capsys):
    given = ["--model", "mlp([8])", "--dataset", "fashion_mnist_mini", "--defence", "trigger_set"]
    assert main(["poison", *given, "--attack", "no_removal", "--budget", "images(9)"]) == 2
    assert "see the verb watermark" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"belongs to 'backdoor'; use poison\(\)"):
        rb.watermark("mlp([8])", "fashion_mnist_mini", "badnets", "rate(0.1)", defence="trigger_set")


def test_the_table_has_a_row_for_each_mark_and_attack_controls_first():
    found = {attack: outcome(attack)[0] for attack in ("forge", "no_removal", "independent")}
    timing = records.Timing(compile_s=0, run_s=0)
    made = [records.record_of(cell(attack=attack), it, timing, {}) for attack, it in found.items()]
    (page,) = ownership_table.sheets(made)
    shown = [dict(zip(page.head, row, strict=True)) for row in page.rows]
    assert [row["Mark · attack"].split(" · ")[1] for row in shown] == ["no_removal", "independent", "forge"]
    assert [row["Verified"] for row in shown] == ["1 of 1", "0 of 1", "1 of 1"]
    assert [row["Removed"] for row in shown] == ["0 of 1", "–", "0 of 1"]
    assert shown[0]["Forged"] == "–" and shown[2]["Forged"] in ("0 of 1", "1 of 1") and shown[0]["p"] == "0.025"
