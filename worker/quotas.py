"""Takes what a submission would add to the queue. Gives a no, and when to come again, where too much waits already.

Knows nothing of how a submission travels or is recorded. An item waits, here, until it has its outcome.
"""

import math
import time
from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy.orm import Session, sessionmaker

from db import session, unfinished, workers
from worker import sizing
from worker.messages import INTERACTIVE, Submission

#: Of each limit, one part in so many is kept beyond it for interactive work: a queue full of bulk shuts out bulk alone.
HEADROOM = 10
#: Seconds after which a caller is told to come again, at least and at most, and where no worker has told its pace.
SOONEST_S, LATEST_S, UNKNOWN_S = 2.0, 3600.0, 60.0
#: Seconds that a transaction which creates a job may take to commit without being overlooked.
COMMIT_S = 5.0
#: Time from one count of everything to the next, by what a count takes: a twentieth of one core at most.
COUNTS_APART = 20


class Overloaded(Exception):
    """Too much waits already."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        #: None where no waiting helps.
        self.retry_after_s = retry_after_s


class QueueFull(Overloaded):
    """All callers together have too much waiting."""


class QuotaExceeded(Overloaded):
    """One caller has too much waiting."""


class Count:
    """Counts what waits, by caller: jobs of long ago as of the last `renew`, later ones anew at each look.

    A look is cheap however much waits, and sees every job that was committed before it. It may be too high by what was
    done since the last `renew`, and too low by what an operator has retried since.
    """

    def __init__(self) -> None:
        self._old: tuple[float | None, Counter[str | None]] = (None, Counter())
        self._rests_until_s = 0.0

    def renew(self, sessions: sessionmaker[Session]) -> None:
        """Count the jobs of long ago, unless counting them took so long that it is not due again."""
        started_s = time.monotonic()
        if started_s < self._rests_until_s:
            return
        with session.reading(sessions) as reading:
            before_s = session.clock(reading) - COMMIT_S
            self._old = before_s, unfinished.by_caller(reading, before_s=before_s)
        self._rests_until_s = time.monotonic() + COUNTS_APART * (time.monotonic() - started_s)

    def look(self, reading: Session) -> Counter[str | None]:
        """Give the items that wait, by caller."""
        before_s, old = self._old
        return old + unfinished.by_caller(reading, since_s=before_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """How many items may wait."""

    #: Of all callers together; 0 sets no limit.
    max_waiting: int = 0
    #: Of one caller; 0 sets no limit.
    max_caller: int = 0
    count: Count = field(default_factory=Count)

    def room(self, transaction: Session) -> "Room":
        """Look once at what waits, for all that one transaction will accept."""
        is_limited = self.max_waiting or self.max_caller
        return Room(transaction, self, self.count.look(transaction) if is_limited else Counter())


class Room:
    """What one transaction may still accept.

    Two intakes that look at the same moment may each fill the same room: they overshoot a limit by what one
    transaction accepts, which is one large job or what waited of small ones.
    """

    def __init__(self, reading: Session, quotas: Quotas, waiting: Counter[str | None]) -> None:
        self._reading = reading
        self._quotas = quotas
        self._waiting = waiting

    def take(self, submission: Submission) -> None:
        """Count a job that is new as accepted. Raises `QueueFull` or `QuotaExceeded` if it does not fit."""
        quotas, caller = self._quotas, submission.caller
        limit, num_waiting = _limit(quotas.max_caller, submission), self._waiting[caller]
        if quotas.max_caller and num_waiting + submission.num_items > limit:
            said = f"{_named(caller)} {num_waiting:,} items waiting of {limit:,} (IMAGEMILL_MAX_CALLER_ITEMS)"
            raise QuotaExceeded(*self._answer(said, submission, num_waiting, limit))
        limit, num_waiting = _limit(quotas.max_waiting, submission), self._waiting.total()
        if quotas.max_waiting and num_waiting + submission.num_items > limit:
            said = f"The queue is full: {num_waiting:,} items wait of {limit:,} that may (IMAGEMILL_MAX_WAITING_ITEMS)"
            raise QueueFull(*self._answer(said, submission, num_waiting, limit))
        self._waiting[caller] += submission.num_items

    def _answer(self, said: str, submission: Submission, num_waiting: int, limit: int) -> tuple[str, float | None]:
        said = f"{said}, and this job has {submission.num_items:,}"
        if submission.num_items > limit:
            return f"{said}: send it as several jobs, or have the limit raised.", None
        retry_after_s = self._retry_after_s(submission.model, num_waiting + submission.num_items - limit)
        return f"{said}. Try again in about {retry_after_s:,.0f} s.", retry_after_s

    def _retry_after_s(self, model: str, num_over: int) -> float:
        """Give the seconds in which the model's workers do so many items, by their pace of late."""
        told = [pace for pace in workers.paces(self._reading, model, within_s=sizing.ALIVE_S) if pace]
        if not told:
            return UNKNOWN_S
        return float(math.ceil(min(LATEST_S, max(SOONEST_S, num_over / sum(told)))))


def _limit(limit: int, submission: Submission) -> int:
    return limit + math.ceil(limit / HEADROOM) * (submission.priority == INTERACTIVE)


def _named(caller: str | None) -> str:
    return "Callers without a name have" if caller is None else f"Caller {caller[:100]!r} has"
