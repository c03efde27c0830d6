"""Takes jobs that somebody waits for. Gives each one's view whenever it changes.

Knows nothing of HTTP. However many wait, the ledger is asked as often: once for all of them.
"""

import asyncio
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool

from db import errors, jobs, session
from db.jobs import JobView

log = logging.getLogger(__name__)

#: Seconds between two looks.
EVERY_S = 0.05
#: Seconds between two looks while the ledger is away.
AWAY_S = 1.0

#: Holds the newest view of a job, once it is one that was not taken yet.
Newest: TypeAlias = "asyncio.Queue[JobView]"


class Watch:
    """Looks at jobs for those who follow them. Used by the event loop's thread alone."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions
        #: job -> who follows it: each one's place for the newest view
        self._followers: dict[uuid.UUID, set[Newest]] = {}
        #: the last view of each that somebody follows
        self._seen: dict[uuid.UUID, JobView] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def following(self, job_id: uuid.UUID) -> Iterator[Newest]:
        """Give the place where a job's newest view is put: at first once, and then whenever it has changed."""
        newest: Newest = asyncio.Queue(maxsize=1)
        self._followers.setdefault(job_id, set()).add(newest)
        if job_id in self._seen:
            newest.put_nowait(self._seen[job_id])
        self._task = self._task or asyncio.create_task(self._run())
        try:
            yield newest
        finally:
            self._followers[job_id].discard(newest)
            if not self._followers[job_id]:
                del self._followers[job_id]
                self._seen.pop(job_id, None)

    def _marks(self, job_id: uuid.UUID) -> tuple[object, ...] | None:
        job = self._seen.get(job_id)
        return None if job is None else (job.state, job.num_succeeded, job.num_failed)

    async def _run(self) -> None:
        try:
            while self._followers:
                await asyncio.sleep(await self._look())
        finally:
            self._task = None

    async def _look(self) -> float:
        try:
            found = await run_in_threadpool(
                _changed, self._sessions, {job: self._marks(job) for job in self._followers}
            )
        except errors.LedgerError as away:
            log.warning("waits for the ledger: %s", away)
            return AWAY_S
        for job in found:
            if job.id in self._followers and self._seen.get(job.id) != job:
                self._seen[job.id] = job
                for newest in self._followers[job.id]:
                    _put(newest, job)
        return EVERY_S


def _changed(sessions: sessionmaker[Session], seen: Mapping[uuid.UUID, object]) -> list[JobView]:
    """Read the jobs that are not as they were seen."""
    with session.reading(sessions) as reading:
        now = jobs.marks(reading, list(seen))
        changed = [job_id for job_id, marks in now.items() if marks != seen[job_id]]
        return jobs.some(reading, changed) if changed else []


def _put(place: Newest, job: JobView) -> None:
    """Put the newest view in place of one that nobody has taken yet."""
    if place.full():
        place.get_nowait()
    place.put_nowait(job)
