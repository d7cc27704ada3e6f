"""Together: what many wait for, done in one go, in one thread, in the order in which it was asked.

Batched inference, the group commit of the log and the monitors are all this: things that are asked for while one go is
being worked on are in the next one. A go is begun once there is something to do; while there is so much that goes are
of several things, after waiting `wait` seconds at most for more of it. Who asks alone does not wait for others.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from robustbench_jax.serving.problems import Problem


class Together:
    """work([thing, ...]) -> [result, ...] runs in a thread of its own. most: the sizes of one go add up to at most that
    many, but for a single larger thing. room: the sizes of what waits; beyond it `ask` is refused. For one event loop.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Any]], Sequence[Any]],
        *,
        most: float = float("inf"),
        wait: float = 0.0,
        room: float = float("inf"),
    ):
        self.name, self.work, self.most, self.wait, self.room = name, work, most, wait, room
        self.waiting = 0
        self._asked: deque[tuple[Any, int, asyncio.Future]] = deque()
        self._arrived, self._enough = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._task: asyncio.Task | None = None
        self._crowded = False

    async def ask(self, thing: Any, size: int = 1) -> Any:
        """The result for this thing. Problem 503 where there is no room; whatever `work` raises."""
        if self.waiting + size > self.room:
            raise Problem(503, "busy", f"{self.waiting} images wait already; try again", retry_after=1.0)
        future = asyncio.get_running_loop().create_future()
        self._asked.append((thing, size, future))
        self.waiting += size
        self._arrived.set()
        if self.waiting >= self.most:
            self._enough.set()
        return await future

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Ends once all that was asked is answered."""
        while self._asked:
            await asyncio.sleep(0.005)
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if self.wait and self.waiting < self.most and (self._crowded or len(self._asked) > 1):
                await self._patience()
            taken = self._take()
            self._crowded = len(taken) > 1
            await self._go(taken)

    async def _patience(self) -> None:
        self._enough.clear()
        try:
            await asyncio.wait_for(self._enough.wait(), self.wait)
        except TimeoutError:
            pass

    def _take(self) -> list[tuple[Any, int, asyncio.Future]]:
        taken, size = [], 0
        while self._asked and (not taken or size + self._asked[0][1] <= self.most):
            taken.append(self._asked.popleft())
            size += taken[-1][1]
        self.waiting -= size
        if not self._asked:
            self._arrived.clear()
        return taken

    async def _go(self, taken: list[tuple[Any, int, asyncio.Future]]) -> None:
        things = [thing for thing, _, _ in taken]
        work = asyncio.get_running_loop().run_in_executor(self._thread, self.work, things)
        try:
            results = await asyncio.shield(work)
        except asyncio.CancelledError:
            self._settle(taken, await work)
            raise
        except Exception as error:
            for _, _, future in taken:
                if not future.done():
                    future.set_exception(error)
            return
        self._settle(taken, results)

    def _settle(self, taken: list[tuple[Any, int, asyncio.Future]], results: Sequence[Any]) -> None:
        for (_, _, future), result in zip(taken, results, strict=True):
            if not future.done():
                future.set_result(result)
