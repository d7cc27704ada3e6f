"""The nouns of poisoning: who is chosen, how triggers are put on images, and what stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.backdoor.badnets import Patch
from robustbench_jax.poisons import PoisonedDataset, Trigger, changed, chosen, stamped
from robustbench_jax.registry import build
from robustbench_jax.types import UserError, record
from tests import oracles

KEY = jax.random.key(0)


@record
class Noise(Trigger):
    """Adds noise of its own to each image."""

    size: float

    def apply(self, key, x):
        return x + self.size * jax.random.normal(key, x.shape)


def test_a_larger_count_draws_the_same_rows_and_more():
    eligible = np.arange(20) % 2 == 0
    few, none = chosen(KEY, eligible, 3)
    more, _ = chosen(KEY, eligible, 7)
    assert set(few) < set(more) and len(few) == 3 and len(more) == 7 and not none
    assert eligible[more].all()


def test_too_few_eligible_rows_are_all_taken_and_flagged():
    rows, flags = chosen(KEY, np.arange(10) < 4, 6)
    np.testing.assert_array_equal(rows, [0, 1, 2, 3])
    assert flags == ("only 4 of 6 poisons: there are no more images to choose from",)


def test_stamped_images_are_clipped_and_rounded_to_the_nearest_level():
    x = np.full((2, 4, 4, 1), 100, np.uint8)
    patch = Patch(jnp.ones((4, 4, 1)), jnp.full((4, 4, 1), 1.7), 0, "all_to_one")
    assert np.all(stamped(KEY, patch, x) == 255)
    half = Patch(jnp.full((4, 4, 1), 0.5), jnp.zeros((4, 4, 1)), 0, "all_to_one")
    assert np.all(stamped(KEY, half, x) == 50)


def test_what_an_image_gets_depends_on_its_id_and_not_on_its_neighbours():
    x = np.full((5, 4, 4, 1), 128, np.uint8)
    whole = stamped(KEY, Noise(0.1), x)
    np.testing.assert_array_equal(stamped(KEY, Noise(0.1), x[[3]], np.array([3])), whole[[3]])
    assert np.any(whole[0] != whole[1])


def test_only_the_named_rows_change():
    data = oracles.noise_images(8)
    made = changed(data, np.array([1, 5]), y=np.array([0, 0]))
    assert made.poisoned.nonzero()[0].tolist() == [1, 5]
    np.testing.assert_array_equal(made.dataset.x, data.x)
    others = ~made.poisoned
    np.testing.assert_array_equal(made.dataset.y[others], data.y[others])
    assert made.digest != data.digest


def test_marks_must_be_one_a_row():
    with pytest.raises(ValueError, match="3 marks for 16 rows"):
        PoisonedDataset(oracles.noise_images(16), np.zeros(3, bool))


def test_rates_round_to_the_nearest_image_and_counts_need_enough_of_them():
    assert [build("budget", f"rate({p})").size(10) for p in (0, 0.05, 0.14, 0.15, 1)] == [0, 1, 1, 2, 10]
    assert build("budget", "count(7)").size(10) == 7
    with pytest.raises(UserError, match=r"count\(11\): there are 10 training images"):
        build("budget", "count(11)").size(10)
    with pytest.raises(UserError, match=r"rate: p = 5.0 must be from 0 to 1; did you mean rate\(5.0/100\)"):
        build("budget", "rate(5)")
    with pytest.raises(UserError, match="count: n = -1 must be at least 0"):
        build("budget", "count(-1)")
