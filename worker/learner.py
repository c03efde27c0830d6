"""Takes a run's id. Gives the run carried as far as it goes in this child: to its end, or back to the ledger.

Knows nothing of torch until the first run arrives: a child that only waits should hold no device.
"""

import importlib
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session, sessionmaker

from db import runs, session, shards, workers
from worker import heartbeat, lines
from worker.learning.watch import Watch
from worker.settings import Settings
from worker.sizing import ALIVE_S

if TYPE_CHECKING:
    from worker.learning.workshop import Workshop

log = logging.getLogger(__name__)


class Learner:
    """What a learn child owns. One run at a time, with its lease tended by the heartbeat."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], is_stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._sessions = sessions
        self._is_stopping = is_stopping
        self._watch: Watch | None = None
        self._workshop: Workshop | None = None
        self._beating = heartbeat.Heartbeat(sessions, self._describe, chores=(self._tend,))
        self._beating.start()

    def learn(self, run_id: int) -> str:
        """Carry out a run, and say what came of it; a run that has ended or that somebody holds is nothing to do."""
        with session.transaction(self._sessions) as transaction:
            run = runs.claim(
                transaction,
                run_id,
                owner=heartbeat.worker_name("learn"),
                lease_s=self._settings.run_lease_s,
            )
        if run is None:
            return "nothing left to claim"
        lines.found(model=run.model)
        workshop = self._open_workshop()
        self._watch = Watch(
            self._sessions,
            run,
            lease_s=self._settings.run_lease_s,
            share=self._settings.learn_share,
            is_serving_busy=partial(is_serving_busy, device_id=workshop.device_id),
            is_stopping=lambda: self._is_stopping() or self._beating.is_asked_to_drain,
        )
        try:
            told: str = importlib.import_module("worker.learning.carrying").carry_out(workshop, self._watch)
            return told
        finally:
            self._watch = None

    def watch_drift(self, model: str) -> str:
        """Compare the latest predictions of what serves with its predictions of the frozen test images."""
        told: str = importlib.import_module("worker.learning.drifting").look(self._sessions, self._settings, model)
        return told

    def close(self) -> None:
        """Say goodbye in the ledger."""
        self._beating.stop()
        if self._workshop is not None:
            self._workshop.pool.shutdown(cancel_futures=True)

    def _open_workshop(self) -> "Workshop":
        if self._workshop is None:
            opened: Workshop = importlib.import_module("worker.learning.workshop").open_workshop(
                self._settings, self._sessions
            )
            self._workshop = opened
        return self._workshop

    def _tend(self) -> None:
        watch = self._watch
        if watch is not None:
            watch.tend()

    def _describe(self) -> workers.Worker:
        watch = self._watch
        return heartbeat.row(
            "learn",
            device=self._workshop.device_name if self._workshop else self._settings.device,
            state="busy" if watch else "ready",
            message=f"run {watch.run.id} of {watch.run.model}" if watch else None,
        )


def is_serving_busy(reading: Session, *, device_id: str | None) -> bool:
    """Tell whether images wait for, or are being classified on, the device of that name."""
    here = [
        worker
        for worker in workers.list_alive(reading, within_s=ALIVE_S)
        if worker.role == "classify" and worker.device_id == device_id and (worker.takes_work or worker.state == "busy")
    ]
    models = {model for worker in here for model in worker.models}
    return any(worker.state == "busy" for worker in here) or shards.is_any_waiting(reading, sorted(models))
