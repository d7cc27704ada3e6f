"""Laws of backdoors: what is true of every registered one, whoever writes the next."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.models import build_model
from robustbench_jax.poisons import stamped
from robustbench_jax.registry import build, discover
from tests import oracles

KEY = jax.random.key(1)
COUNT = 7  # the same for all laws, so that an attack compiles once
DATA = oracles.noise_images(60, (12, 12, 1), 4)
CALLS = {
    "badnets": "badnets(target=1)",
    "label_consistent": "label_consistent(steps=2)",
    "sleeper_agent": "sleeper_agent(steps=3, retrains=0, restarts=1)",
    "hidden_trigger": "hidden_trigger(steps=3)",
    "sig": "sig(frequency=2)",
    "trojan_nn": "trojan_nn(steps=5)",
    "adaptive_patch": "adaptive_patch(size=3)",
    "input_aware": "input_aware(width=4, mask_steps=5)",
}
ATTACKS = [CALLS.get(name, name) for name, e in discover("attack").items() if e.facts["threat"] == "backdoor"]


def attack_of(text):
    return build("attack", text)


def references(attack):
    shape = DATA.x.shape[1:]
    return tuple(build_model("mlp([8])", shape, 4, jax.random.key(i)) for i in range(attack.references))


def poisoned(text, count, data=DATA):
    attack = attack_of(text)
    return attack.poison(KEY, data, count, references(attack) if count else ())


@pytest.mark.parametrize("text", ATTACKS)
def test_no_more_rows_than_the_budget_are_touched_and_the_others_are_as_they_were(text):
    made = poisoned(text, COUNT)
    assert 0 < made.poisoned.sum() <= COUNT and made.trigger is not None and made.dataset.x.dtype == np.uint8
    for before, after in ((DATA.x, made.dataset.x), (DATA.y, made.dataset.y)):
        np.testing.assert_array_equal(before[~made.poisoned], after[: len(DATA)][~made.poisoned[: len(DATA)]])


@pytest.mark.parametrize("text", ATTACKS)
def test_a_budget_of_nothing_changes_nothing_but_there_is_a_trigger(text):
    made = poisoned(text, 0)
    assert made.digest == DATA.digest and not made.poisoned.any() and made.trigger is not None


@pytest.mark.parametrize("text", ATTACKS)
def test_the_same_key_poisons_alike(text):
    assert poisoned(text, COUNT).digest == poisoned(text, COUNT).digest


@pytest.mark.parametrize("text", ATTACKS)
def test_labels_are_the_attackers_or_not_touched_at_all(text):
    attack, made = attack_of(text), poisoned(text, COUNT)
    rows = np.flatnonzero(made.poisoned)
    if attack.clean_label:
        np.testing.assert_array_equal(made.dataset.y, DATA.y)
        assert np.all(made.dataset.y[rows] == attack.target)
    elif attack.access == "poison_only":
        lost = made.dataset.y != DATA.y
        np.testing.assert_array_equal(made.dataset.y[lost], made.trigger.label(DATA.y, 4)[lost])
        assert np.all(DATA.y[rows] != made.trigger.label(DATA.y, 4)[rows]) and lost.any()


@pytest.mark.parametrize("text", ATTACKS)
def test_a_triggered_image_depends_on_itself_alone(text):
    trigger = poisoned(text, 0).trigger
    whole = stamped(KEY, trigger, DATA.x[:6])
    np.testing.assert_array_equal(stamped(KEY, trigger, DATA.x[[4]], np.array([4]))[0], whole[4])
    assert np.any(whole != DATA.x[:6])


@pytest.mark.parametrize("text", ATTACKS)
def test_only_who_runs_the_training_learns_a_trigger_in_it(text):
    attack, made = attack_of(text), poisoned(text, COUNT)
    assert not attack.learns or attack.access == "train_control"
    if attack.access == "train_control":
        assert made.dataset.digest == DATA.digest
        mode = attack.controlled(build("training", "standard"), made)
        x, y = jnp.asarray(DATA.x, jnp.float32) / 255, jnp.asarray(DATA.y)
        bad, labels = mode.tampered(KEY, x, y)
        changed = np.any(np.asarray(bad != x), axis=(1, 2, 3))
        assert changed.any() and not np.any(np.asarray(labels != y) & ~changed)
        assert bad.shape == x.shape and float(bad.min()) >= 0 and float(bad.max()) <= 1


@pytest.mark.parametrize("text", ["badnets(relabels='all_to_all')", "wanet(relabels='all_to_all')"])
def test_all_to_all_gives_the_next_class(text):
    """BackdoorBench#18: WaNet's all-to-all labels were wrong."""
    made = poisoned(text, 20)
    rows = np.flatnonzero(made.poisoned)
    np.testing.assert_array_equal(made.dataset.y[rows], (DATA.y[rows] + 1) % 4)
