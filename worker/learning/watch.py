"""Takes a claimed run. Gives the one question a long computation asks between batches: may it go on?

Knows nothing of what is computed. The heartbeat's thread tends the lease; the computation's own thread asks.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from db import runs, session

log = logging.getLogger(__name__)

#: seconds a pause sleeps at a time, so that a cancel is not kept waiting
NAP_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a computation needs of the run it is for, if it is for one."""

    model: str
    seed: int
    #: returns when the computation may go on; raises to stop it
    keep_going: Callable[[], None] = lambda: None


class Stopped(Exception):
    """The run does not go on here."""


class Cancelled(Stopped):
    """Somebody cancelled the run."""


class Lost(Stopped):
    """The lease ran out and somebody else has the run."""


class Interrupted(Stopped):
    """This worker is being stopped; another one goes on with the run."""


class Watch:
    """Keeps one run's lease, and tells its computation to stop, or to wait while images do.

    `is_serving_busy` says whether images wait for the device the run computes on; then the run takes `share` of
    the time and sleeps through the rest, so that serving is slowed a little and learning never starves.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        run: runs.Run,
        *,
        lease_s: float,
        share: float,
        is_serving_busy: Callable[[Session], bool],
        is_stopping: Callable[[], bool],
    ) -> None:
        self.run = run
        #: seconds slept for serving's sake
        self.yielded_s = 0.0
        self._sessions = sessions
        self._lease_s = lease_s
        self._share = share
        self._ask_serving = is_serving_busy
        self._is_stopping = is_stopping
        self._stopped: type[Stopped] | None = None
        self._is_yielding = threading.Event()
        self._resumed_s = time.monotonic()

    @property
    def pace(self) -> Pace:
        """What computations are handed."""
        return Pace(model=self.run.model, seed=self.run.seed, keep_going=self.keep_going)

    def tend(self) -> None:
        """Extend the lease and look around; a chore of the heartbeat."""
        with session.transaction(self._sessions) as transaction:
            held = runs.extend(transaction, self.run.id, self.run.fence, lease_s=self._lease_s)
            is_busy = self._ask_serving(transaction)
        if not held.is_held:
            self._stopped = Lost
        elif held.is_cancelled:
            self._stopped = Cancelled
        if is_busy:
            self._is_yielding.set()
        else:
            self._is_yielding.clear()

    def keep_going(self) -> None:
        """Return when the computation may go on. Raises `Cancelled`, `Lost` or `Interrupted`."""
        self._raise_if_stopped()
        worked_s = time.monotonic() - self._resumed_s
        rest_s = worked_s * (1 / self._share - 1)
        while self._is_yielding.is_set() and rest_s > 0:
            time.sleep(min(NAP_S, rest_s))
            rest_s -= NAP_S
            self.yielded_s += NAP_S
            self._raise_if_stopped()
        self._resumed_s = time.monotonic()

    def _raise_if_stopped(self) -> None:
        if self._is_stopping():
            raise Interrupted
        if self._stopped is not None:
            raise self._stopped
