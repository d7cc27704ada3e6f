"""Poisoning: availability against the clean twin, and targets of which each has its own poisons and victim."""

import jax
import numpy as np

from robustbench_jax.poisons import PoisoningAttack, changed
from robustbench_jax.registry import build
from robustbench_jax.threats import poisoning
from tests.threats import laboratory

KEY = jax.random.key(0)


class Planted(PoisoningAttack):
    """Marks rows so that the made-up trainer takes every white corner for the intended class."""

    goal, references = "targeted", 2
    facts = {"access": "poison_only"}

    def craft(self, key, data, count, x, y, intended, references=()):
        assert len(references) == 2 and intended != y
        images = np.array(data.x[:count])
        images[:, -1, -1, 0] = 255
        return changed(data, np.arange(count), x=images, y=np.full(count, intended))


def test_accuracy_is_compared_with_the_same_seed_on_clean_data():
    lab, data = laboratory.lab(), laboratory.images(50, seed=2)
    found = poisoning.run(KEY, lab, data, build("attack", "label_flip"), build("budget", "rate(0.2)"))
    assert found.metrics["clean_model_accuracy"].value == found.metrics["clean_accuracy"].value == 1.0
    assert found.metrics["accuracy_drop"].value == 0.0 and found.metrics["poisons"].value == 20
    poisoned = lab.fit.asked[-1][0]
    assert np.sum(poisoned.y != lab.data.y) == 20 == len(found.artefacts["poison_rows"])
    assert not np.any((poisoned.y != lab.data.y) & lab.known)


def test_flips_of_one_class_are_judged_on_that_class_too():
    lab, data = laboratory.lab(), laboratory.images(50, seed=2)
    found = poisoning.run(KEY, lab, data, build("attack", "label_flip(source=2, to=0)"), build("budget", "count(9)"))
    of_class = found.metrics["subpopulation_accuracy"]
    assert of_class.value == 1.0 and of_class.n == np.sum(data.y == 2) > 0
    poisoned = lab.fit.asked[-1][0]
    changed = poisoned.y != lab.data.y
    assert changed.sum() == 9 and np.all(lab.data.y[changed] == 2) and np.all(poisoned.y[changed] == 0)


def test_an_attacker_may_have_every_image_where_no_defence_asks_for_trusted_ones():
    lab, data = laboratory.lab(), laboratory.images(10, seed=2)
    found = poisoning.run(KEY, lab, data, build("attack", "label_flip"), build("budget", "rate(1.0)"))
    assert found.metrics["poisons"].value == 100 and np.all(lab.fit.asked[-1][0].y != lab.data.y)
    assert "no image is trusted: the attacker may change all of them" in found.flags


def test_every_target_has_poisons_and_a_victim_of_its_own():
    lab, data = laboratory.lab(), laboratory.images(6, seed=2)
    data.x[:3, -1, -1, 0] = 255  # these three carry what the poisons teach
    found = poisoning.run(KEY, lab, data, Planted(), build("budget", "count(8)"))
    victims = [asked for asked in lab.fit.asked if asked[2] is None][1:]
    assert len(victims) == 6 and len({tuple(victim[0].y) for victim in victims}) > 1
    np.testing.assert_array_equal(found.arrays["robust"], [False] * 3 + [True] * 3)
    assert found.metrics["poison_success_rate"].value == 0.5 and found.metrics["poison_success_rate"].n == 6
    assert found.metrics["clean_model_success_rate"].value == 0.0
    assert set(found.artefacts) >= {f"poison_rows_{i}" for i in range(6)}


def test_the_intended_class_is_never_the_true_one_and_depends_on_the_image_alone():
    y = np.arange(40) % 5
    intended = poisoning.intentions(KEY, y, 5)
    assert np.all(intended != y) and set(intended) == set(range(5))
    np.testing.assert_array_equal(poisoning.intentions(KEY, y[:7], 5), intended[:7])
