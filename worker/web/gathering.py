"""Takes submissions of many requests. Gives each its receipt, after one commit for all that came in the meantime.

Knows nothing of HTTP. One thread writes while requests gather behind it, as messages do behind intake's child: two
hundred callers with an image each cost a few transactions, not two hundred that wait for each other.
"""

import asyncio
from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool

from worker import intake
from worker.messages import Reply

#: Submissions in one transaction at most.
MAX_TOGETHER = 100


class Gathering:
    """Hands submissions to the desk, all that wait at a time. Used by the event loop's thread alone."""

    def __init__(self, desk: intake.Desk) -> None:
        self._desk = desk
        self._waiting: list[tuple[object, asyncio.Future[Reply]]] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, wire: object) -> Reply:
        """Record one submission, and acknowledge it."""
        receipt: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((wire, receipt))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await receipt

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:]
                # Whoever went away meanwhile is recorded all the same: what was sent whole counts.
                await self._record(taken)
        finally:
            self._task = None

    async def _record(self, taken: Sequence[tuple[object, asyncio.Future[Reply]]]) -> None:
        try:
            submitted = await run_in_threadpool(intake.submit_all, self._desk, [wire for wire, _ in taken])
        except Exception as wrong:  # noqa: BLE001 - whoever asked is told, and the next are served
            for _, receipt in taken:
                if not receipt.done():
                    receipt.set_exception(wrong)
            return
        for (_, receipt), one in zip(taken, submitted, strict=True):
            if not receipt.done():
                receipt.set_result(one.reply)
