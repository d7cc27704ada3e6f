"""Together: what is asked at once is done at once, each gets its own, and nobody waits for ever."""

import asyncio
import threading

import pytest

from robustbench_jax.serving.problems import Problem
from robustbench_jax.serving.together import Together


def played(scenario, work, **options):
    """Runs scenario(together) in an event loop; returns what it returns and the goes, in order."""
    goes = []

    def noted(things):
        goes.append(list(things))
        return work(things)

    async def play():
        together = Together("test", noted, **options)
        together.start()
        result = await scenario(together)
        await together.stop()
        return result

    return asyncio.run(play()), goes


def tenfold(things):
    return [10 * thing for thing in things]


async def all_at_once(together, count=20, size=1):
    return await asyncio.gather(*(together.ask(i, size) for i in range(count)))


def test_each_gets_its_own_result_and_few_goes_are_made():
    results, goes = played(all_at_once, tenfold, most=8, wait=0.05)
    assert results == [10 * i for i in range(20)]
    assert [len(go) for go in goes] == [8, 8, 4] and sum(goes, []) == list(range(20))


def test_who_asks_alone_does_not_wait_for_others():
    async def scenario(together):
        began = asyncio.get_running_loop().time()
        results = [await together.ask(i) for i in range(3)]
        return results, asyncio.get_running_loop().time() - began

    (results, took), goes = played(scenario, tenfold, most=8, wait=5.0)
    assert results == [0, 10, 20] and goes == [[0], [1], [2]] and took < 4


def test_while_several_come_at_a_time_a_go_waits_for_more():
    async def scenario(together):
        first = [asyncio.ensure_future(together.ask(i)) for i in range(2)]
        await asyncio.gather(*first)
        late = [asyncio.ensure_future(together.ask(2))]
        await asyncio.sleep(0.02)
        late.append(asyncio.ensure_future(together.ask(3)))
        await asyncio.gather(*late)

    _, goes = played(scenario, tenfold, most=2, wait=5.0)
    assert goes == [[0, 1], [2, 3]]


def test_sizes_add_up_to_what_fits_and_a_larger_one_goes_alone():
    async def scenario(together):
        return await asyncio.gather(*(together.ask(i, size) for i, size in enumerate((3, 3, 9, 2, 2))))

    _, goes = played(scenario, tenfold, most=4, wait=0.01)
    assert goes == [[0], [1], [2], [3, 4]]


def test_without_room_it_is_refused_at_once_and_with_room_again_it_is_not():
    held = threading.Event()

    def slow(things):
        held.wait(10)
        return things

    async def scenario(together):
        first = asyncio.ensure_future(together.ask(0))
        await asyncio.sleep(0.05)  # it is being worked on and waits no more
        second, third = (asyncio.ensure_future(together.ask(i)) for i in (1, 2))
        await asyncio.sleep(0)
        with pytest.raises(Problem) as caught:
            await together.ask(3)
        held.set()
        assert await asyncio.gather(first, second, third) == [0, 1, 2]
        return caught.value, await together.ask(4)

    (problem, last), _ = played(scenario, slow, room=2)
    assert (problem.status, problem.reason, last) == (503, "busy", 4)


def test_an_exception_reaches_those_who_asked_and_the_next_go_is_made():
    def fails_at_first(things):
        if 0 in things:
            raise OverflowError("no")
        return things

    async def scenario(together):
        with pytest.raises(OverflowError):
            await together.ask(0)
        return await together.ask(1)

    assert played(scenario, fails_at_first)[0] == 1


def test_stopping_answers_what_was_asked():
    async def scenario(together):
        asked = [asyncio.ensure_future(together.ask(i)) for i in range(5)]
        await asyncio.sleep(0)
        await together.stop()
        return [future.result() for future in asked]

    assert played(scenario, tenfold, most=2)[0] == [0, 10, 20, 30, 40]
