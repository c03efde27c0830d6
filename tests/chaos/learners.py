"""Takes settings and a run. Gives processes that do what the child of a learn worker does: claim the run, carry it out.

Knows nothing of faults. They are forked from a process that has imported torch already, for a test kills dozens.
"""

import multiprocessing
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from db import runs, session
from pipeline import failpoints
from tests.mills import await_until
from worker import runtime
from worker.learning import carrying, workshop
from worker.settings import Settings

#: what a learn child imports with its first run
FIRST_RUN = (carrying, workshop)

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """One learn child."""

    process: BaseProcess
    #: file that holds what came of the run, once it has come back from it
    told: Path

    @property
    def pid(self) -> int:
        """Its process id, by which a run's lease names it."""
        assert self.process.pid is not None
        return self.process.pid

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still by SIGSTOP."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def end(self) -> int:
        """Wait for its end, and give its exit code."""
        await_until(lambda: self.process.exitcode is not None, "the learn child has ended")
        assert self.process.exitcode is not None
        return self.process.exitcode

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.join()


def start(settings: Settings, run_id: int, points: Path) -> Learner:
    """Start a learn child for one run; places of its code are armed by files in `points`."""
    told = settings.home / f"told-{time.monotonic_ns()}"
    process = _FORKS.Process(target=_learn, args=(settings, run_id, points, told), daemon=True)
    process.start()
    return Learner(process=process, told=told)


def _learn(settings: Settings, run_id: int, points: Path, told: Path) -> None:
    failpoints.FOLDER = str(points)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sessions = runtime.open_ledger(settings)
    learner = runtime.open_learner(settings, lambda: False)
    await_until(lambda: _may_claim(sessions, run_id), "the run may be claimed")
    told.write_text(learner.learn(run_id))
    learner.close()


def _may_claim(sessions: sessionmaker[Session], run_id: int) -> bool:
    """Tell whether the run waits, or whoever had it is silent: when a bell reaches a learn worker."""
    with session.reading(sessions) as reading:
        return run_id in runs.due(reading, older_than_s=-1.0)
