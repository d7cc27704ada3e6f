"""The ledger: in whatever order items are settled, what it says equals one item after another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_jax.ops.ledger import Ledger

tables = st.tuples(st.integers(1, 6), st.integers(1, 5)).flatmap(
    lambda shape: st.lists(
        st.lists(st.booleans(), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)


def one_after_another(success, cost):
    """Winner, cost and the item whose x_adv is kept, an example at a time: stop at the first success."""
    winner, spent, kept = [], [], []
    for outcomes, costs in zip(success, cost, strict=True):
        tried = outcomes.index(True) + 1 if True in outcomes else len(outcomes)
        winner.append(tried - 1 if True in outcomes else len(outcomes))
        spent.append(sum(costs[:tried]))
        kept.append(tried - 1)
    return winner, spent, kept


def settle_in_disorder(ledger, success, cost, rng):
    """Lanes that finish in random order and drop what no longer matters. The items kept, those entered."""
    running, kept, entered = [], [-1] * len(success), set()
    while ledger.pending or running:
        running += ledger.take(int(rng.integers(0, 4)))
        if running:
            item, example = running.pop(int(rng.integers(len(running))))
            entered.add((item, example))
            spent = cost[example][item]
            if ledger.settle(item, example, success[example][item], 1.0, spent, 2 * spent, 0):
                kept[example] = item
        if rng.random() < 0.5:
            running = [lane for lane in running if ledger.matters(*map(np.array, lane))]
    return kept, entered


@settings(max_examples=200, deadline=None)
@given(tables, st.integers(0, 2**32 - 1))
def test_any_order_of_settling_gives_what_one_item_after_another_gives(success, seed):
    rng = np.random.default_rng(seed)
    cost = rng.integers(1, 100, np.shape(success)).tolist()
    ledger = Ledger(len(success), len(success[0]))
    winner, spent, kept = one_after_another(success, cost)
    found, entered = settle_in_disorder(ledger, success, cost, rng)
    assert ledger.winner.tolist() == winner and found == kept
    assert ledger.spent("forwards").tolist() == spent
    assert ledger.spent("gradients").tolist() == [2 * total for total in spent]
    np.testing.assert_array_equal(ledger.broken, np.any(success, axis=1))
    assert ledger.finished == len(success)
    assert entered >= {(item, i) for i, last in enumerate(kept) for item in range(last + 1)}


def test_items_are_handed_out_once_in_order_first_items_of_all_examples_before_second_ones():
    ledger = Ledger(3, 2)
    assert ledger.take(2) == [(0, 0), (0, 1)]
    assert ledger.take(0) == []
    assert ledger.take(99) == [(0, 2), (1, 0), (1, 1), (1, 2)]
    assert ledger.take(1) == [] and not ledger.pending


def test_items_of_a_broken_example_are_passed_over_without_using_up_the_count():
    ledger = Ledger(2, 3)
    ledger.take(2)
    assert ledger.settle(0, 0, True, 1.0, 1, 1, 0)
    assert ledger.take(2) == [(1, 1), (2, 1)]
    assert ledger.take(1) == [] and not ledger.pending


def test_a_success_stops_higher_items_and_not_lower_ones_nor_other_examples():
    ledger = Ledger(2, 3)
    assert ledger.settle(1, 0, True, 1.0, 5, 5, 0)
    items, examples = np.array([0, 1, 2, 2]), np.array([0, 0, 0, 1])
    np.testing.assert_array_equal(ledger.matters(items, examples), [True, False, False, True])


def test_a_later_success_of_a_lower_item_takes_over_and_a_higher_one_never_does():
    ledger = Ledger(1, 3)
    assert ledger.settle(1, 0, True, 1.0, 20, 2, 0)
    assert not ledger.settle(2, 0, True, 1.0, 300, 30, 0)
    assert ledger.spent("forwards").tolist() == [20]
    assert ledger.settle(0, 0, True, 1.0, 1, 1, 0)
    assert ledger.winner.tolist() == [0] and ledger.spent("forwards").tolist() == [1]


def test_of_an_example_that_nothing_breaks_the_last_item_is_kept_and_all_are_paid_for():
    ledger = Ledger(1, 3)
    assert [ledger.settle(item, 0, False, 1.0, 10**item, 0, 0) for item in (2, 0, 1)] == [True, False, False]
    assert not ledger.broken.any() and ledger.finished == 1
    assert ledger.spent("forwards").tolist() == [111]


def test_finished_counts_broken_examples_and_those_without_open_items():
    ledger, seen = Ledger(3, 2), [0]
    for item, example, success in ((0, 0, True), (0, 1, False), (1, 1, False), (0, 2, False), (1, 2, True)):
        ledger.settle(item, example, success, 1.0, 1, 1, 0)
        seen.append(ledger.finished)
    assert seen == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("examples, items", [(0, 3), (3, 0)])
def test_a_ledger_of_nothing_owes_nothing(examples, items):
    ledger = Ledger(examples, items)
    assert ledger.take(5) == [] and ledger.finished == examples
    assert ledger.spent("forwards").tolist() == [0] * examples
