"""Takes what a child must do every few seconds. Gives its signs of life, in the ledger's `workers` table.

Knows nothing of Celery or torch. Runs in a thread of the child, so it goes on while a task runs.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from db import counters, errors, session, workers
from worker.meter import Meter

log = logging.getLogger(__name__)

#: Seconds between two beats: how soon an idle worker sees a promotion.
EVERY_S = 2.0
#: Where Linux tells the pages that a process holds.
STATM = Path("/proc/self/statm")


def worker_name(role: str) -> str:
    """Name this child: role, host and process id."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}"


def row(role: str, **facts: object) -> workers.Worker:
    """Describe this child for the `workers` table."""
    known: dict[str, object] = {"models": (), "device": "cpu", "state": "ready", "warm": (), "message": None}
    known["readings"] = memory()
    about = {"name": worker_name(role), "host": socket.gethostname(), "pid": os.getpid(), "role": role}
    about["parent_pid"] = os.getppid()
    return workers.Worker(**(known | about | facts))  # type: ignore[arg-type]  # named fields of one dataclass


def memory() -> dict[str, float]:
    """Measure what this process holds of the machine's memory, where Linux tells."""
    try:
        return {"resident_bytes": int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")}
    except (OSError, ValueError):
        return {}


class Heartbeat:
    """Beats until stopped: does the chores, then writes the worker's row, and what its meter has counted."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        describe: Callable[[], workers.Worker],
        *,
        chores: Sequence[Callable[[], None]] = (),
        meter: Meter | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._sessions = sessions
        self._meter = meter or Meter()
        self._describe = describe
        self._chores = chores
        self._every_s = every_s
        #: as of the last beat: this worker is to take no more work
        self.is_asked_to_drain = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Beat once, then go on in a thread."""
        self.beat()
        self._thread.start()

    def beat(self) -> None:
        """Do one beat. Raises `LedgerError` while the ledger is away."""
        for chore in self._chores:
            chore()
        self._write(self._beat)

    def _beat(self, transaction: Session) -> None:
        self.is_asked_to_drain = workers.beat(transaction, self._describe())

    def stop(self) -> None:
        """Stop beating and take the worker's row away."""
        self._stop.set()
        self._thread.join(timeout=self._every_s + 5)
        try:
            self._write(lambda transaction: workers.leave(transaction, self._describe().name))
        except errors.LedgerError as away:
            log.warning("left without a goodbye: %s", away)

    def _write(self, about: Callable[[Session], None]) -> None:
        amounts = self._meter.take()
        try:
            with session.transaction(self._sessions) as transaction:
                about(transaction)
                counters.add(transaction, amounts)
        except (errors.LedgerError, SQLAlchemyError):
            self._meter.put_back(amounts)
            raise

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.beat()
            except (errors.LedgerError, SQLAlchemyError) as away:
                log.warning("no heartbeat: %s", str(away).splitlines()[0])
            except Exception:
                log.exception("no heartbeat; trying again in %.0f s", self._every_s)
