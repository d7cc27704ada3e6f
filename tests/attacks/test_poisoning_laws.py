"""Laws of poisoning without a trigger: what is true of every registered attack, whoever writes the next."""

import jax
import numpy as np
import pytest

from robustbench_jax.models import build_model
from robustbench_jax.registry import build, discover
from tests import oracles

KEY = jax.random.key(1)
COUNT = 7  # the same for all laws, so that an attack compiles once
DATA = oracles.noise_images(60, (8, 8, 1), 4)
CALLS = {
    "adversarial_poisons": "adversarial_poisons(steps=3)",
    "bullseye_polytope": "bullseye_polytope(steps=5)",
    "convex_polytope": "convex_polytope(steps=5)",
    "feature_collision": "feature_collision(steps=5)",
    "gradient_matching": "gradient_matching(steps=5, restarts=2, shift=1)",
    "influence_poisoning": "influence_poisoning(steps=2, fits=2)",
    "meta_poison": "meta_poison(steps=3)",
    "subpopulation": "subpopulation(clusters=6)",
    "unlearnable_examples": "unlearnable_examples(rounds=1, steps=1)",
}
ATTACKS = [CALLS.get(name, name) for name, e in discover("attack").items() if e.facts["threat"] == "poisoning"]


def made_by(text, count):
    attack = build("attack", text)
    widths = "[]" if "influence" in text else "[8]"
    shape, numbers = (8, 8, 1), range(attack.references)
    references = tuple(build_model(f"mlp({widths})", shape, 4, jax.random.key(i)) for i in numbers)
    if attack.goal == "targeted":
        return attack.craft(KEY, DATA, count, oracles.noise_images(1, (8, 8, 1), 4, 9).x[0], 0, 2, references)
    return attack.poison(KEY, DATA, count, references)


@pytest.mark.parametrize("text", ATTACKS)
def test_no_more_rows_than_the_budget_are_touched_and_the_others_are_as_they_were(text):
    made = made_by(text, COUNT)
    assert 0 < made.poisoned.sum() <= COUNT and made.dataset.x.dtype == np.uint8
    for before, after in ((DATA.x, made.dataset.x), (DATA.y, made.dataset.y)):
        untouched = ~made.poisoned[: len(DATA)]
        np.testing.assert_array_equal(before[untouched], after[: len(DATA)][untouched])


@pytest.mark.parametrize("text", ATTACKS)
def test_a_budget_of_nothing_changes_nothing(text):
    made = made_by(text, 0)
    assert made.digest == DATA.digest and not made.poisoned.any()


@pytest.mark.parametrize("text", ATTACKS)
def test_the_same_key_poisons_alike(text):
    assert made_by(text, COUNT).digest == made_by(text, COUNT).digest


@pytest.mark.parametrize("text", ATTACKS)
def test_clean_label_poisons_keep_their_labels_and_stay_within_eps_as_stored(text):
    attack, made = build("attack", text), made_by(text, COUNT)
    if len(made.dataset) > len(DATA):
        assert not made.poisoned[: len(DATA)].any() and made.poisoned[len(DATA) :].all()
        return
    away = np.abs(made.dataset.x.astype(int) - DATA.x)
    if attack.clean_label:
        np.testing.assert_array_equal(made.dataset.y, DATA.y)
        assert 0 < away.max() <= int(float(attack.eps) * 255 + 1e-6)
    else:
        assert away.max() == 0 and np.all(made.dataset.y[made.poisoned] != DATA.y[made.poisoned])
    if attack.goal == "targeted":
        assert np.all(made.dataset.y[made.poisoned] == 2)
