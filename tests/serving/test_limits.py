"""Token buckets and budgets: exact, by a clock that the test sets, and whoever takes at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from robustbench_jax.serving.accounts import Account
from robustbench_jax.serving.limits import Limits
from robustbench_jax.serving.problems import Problem

HASH = "0" * 64


def refused(act, *arguments) -> Problem | None:
    try:
        act(*arguments)
    except Problem as problem:
        return problem
    return None


def test_a_bucket_gives_its_burst_and_then_its_rate():
    now = [100.0]
    limits, account = Limits(clock=lambda: now[0]), Account("a", HASH, rate=4.0, burst=3)
    assert [refused(limits.request, account) is None for _ in range(4)] == [True, True, True, False]
    assert refused(limits.request, account).retry_after == pytest.approx(0.25)
    now[0] += 0.25
    assert refused(limits.request, account) is None
    assert refused(limits.request, account) is not None
    now[0] += 1000.0  # never more than the burst
    assert [refused(limits.request, account) is None for _ in range(4)] == [True, True, True, False]


def test_a_throttled_account_has_a_part_of_rate_and_burst():
    now = [0.0]
    limits, account = Limits(clock=lambda: now[0]), Account("a", HASH, rate=10.0, burst=20)
    assert sum(refused(limits.request, account, 0.1) is None for _ in range(10)) == 2
    now[0] += 1.0
    assert sum(refused(limits.request, account, 0.1) is None for _ in range(10)) == 1


def test_waiting_as_long_as_it_says_is_enough():
    now = [0.0]
    limits, account = Limits(clock=lambda: now[0]), Account("a", HASH, rate=3.0, burst=1)
    for _ in range(50):
        while (problem := refused(limits.request, account)) is not None:
            now[0] += problem.retry_after
    assert now[0] == pytest.approx(49 / 3)


def test_budgets_are_exact_when_many_threads_take_at_once():
    limits, account = Limits(), Account("a", HASH, budget=1000)
    with ThreadPoolExecutor(16) as pool:
        given = list(pool.map(lambda _: refused(limits.take, account, 3) is None, range(1000)))
    assert sum(given) == 333
    assert limits.spent["a"] == 999 and limits.left(account) == 1


def test_a_request_beyond_the_budget_takes_nothing_and_says_what_is_left():
    limits, account = Limits({"a": 7}), Account("a", HASH, budget=10)
    assert "3 of 10 queries are left, 4 were asked" in refused(limits.take, account, 4).detail
    assert refused(limits.take, account, 3) is None
    limits.give_back(account, 2)
    assert limits.left(account) == 2


def test_accounts_do_not_share():
    limits = Limits(clock=lambda: 0.0)
    for name in "ab":
        assert refused(limits.request, Account(name, HASH, burst=1)) is None
