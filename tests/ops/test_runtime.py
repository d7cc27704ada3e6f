"""Work in threads: in order, on every core, and nothing more after an error."""

import threading

import pytest

from robustbench_jax.ops import runtime
from robustbench_jax.ops.runtime import groups, in_threads


@pytest.mark.parametrize("count", [1, 2, 5, 48])
@pytest.mark.parametrize("most", [0, 1, 3, 100])
def test_groups_are_neighbours_of_nearly_one_size_for_every_core(monkeypatch, count, most):
    monkeypatch.setattr(runtime, "cores", lambda: 4)
    found = groups(count, most)
    sizes = [part.stop - part.start for part in found]
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(count))
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= max(most, 1) and len(found) >= min(count, 4)


def test_results_come_in_order_from_several_threads(monkeypatch):
    monkeypatch.setattr(runtime, "cores", lambda: 2)
    meet = threading.Barrier(2, timeout=30)  # passed by two at a time only
    assert list(in_threads(lambda item: meet.wait() >= 0 and 2 * item, range(6))) == [0, 2, 4, 6, 8, 10]


def test_after_an_error_no_further_item_is_begun(monkeypatch):
    monkeypatch.setattr(runtime, "cores", lambda: 1)
    begun = []

    def fail(item):
        begun.append(item)
        raise ValueError(item)

    with pytest.raises(ValueError, match="0"):
        list(in_threads(fail, range(100)))
    assert len(begun) < 100


def test_the_first_error_is_raised_while_an_earlier_item_is_still_being_made(monkeypatch):
    monkeypatch.setattr(runtime, "cores", lambda: 2)
    stop, ended, begun = threading.Event(), [], []

    def make(item):
        begun.append(item)
        if item == 1:
            raise ValueError("of the second")
        ended.append(stop.wait(30))
        raise InterruptedError

    with pytest.raises(ValueError, match="of the second"):
        list(in_threads(make, range(50), stop))
    assert ended == [True] and sorted(begun) == [0, 1]
