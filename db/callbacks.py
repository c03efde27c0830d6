"""Callbacks: who is to be told of a job's end, and whether they were.

Takes job ids and URLs. Gives those that are due, each to one sender at a time, and keeps what came of each attempt.
Knows nothing of HTTP: how long to wait between two attempts, and when to give up, is the sender's to say.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import ColumnElement, Update, and_, bindparam, case, func, select, update
from sqlalchemy.orm import Session

from db import session as database
from db.models import Callback as Row
from db.models import CallbackState, Job, copied
from db.session import now_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """What became of a job's callback."""

    job_id: uuid.UUID
    #: may hold a secret in its query: not for people's eyes
    url: str
    host: str
    state: CallbackState
    #: since the job ended
    attempts: int
    #: epoch seconds of the next attempt, as are all times here; None while the job has not ended
    next_at_s: float | None
    last_status: int | None
    error: str | None
    created_at_s: float
    finished_at_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A callback that is one sender's to send, until its lease runs out."""

    job_id: uuid.UUID
    url: str
    host: str
    fence: int
    #: this one is counted
    attempts: int


def add(session: Session, job_id: uuid.UUID, url: str, *, host: str) -> None:
    """Note who is to be told of the end of a job that this transaction made or locked; a callback it has stays."""
    if_over = select(case((Job.finished_at_s.is_not(None), now_s()))).where(Job.id == job_id).scalar_subquery()
    added = database.insert(session, Row).values(job_id=job_id, url=url, host=host, next_at_s=if_over)
    session.execute(added.on_conflict_do_nothing())


def become_due(session: Session, job_ids: Sequence[uuid.UUID]) -> None:
    """Note that jobs have ended, in the transaction that ended them."""
    if job_ids:
        session.execute(_becoming_due(), {"jobs": job_ids})


def of_job(session: Session, job_id: uuid.UUID) -> Callback | None:
    """Read a job's callback, if it has one."""
    found = session.get(Row, job_id)
    return None if found is None else copied(Callback, found)


def due_hosts(session: Session, *, most: int) -> list[str]:
    """List hosts to which a callback is due, the one that waits longest first."""
    hosts = select(Row.host).where(_is_due()).group_by(Row.host)
    return list(session.scalars(hosts.order_by(func.min(Row.next_at_s)).limit(most)))


def claim(session: Session, host: str, *, lease_s: float) -> Claim | None:
    """Take the callback to this host that is due longest, for `lease_s` seconds; an attempt is counted."""
    due = select(Row.job_id).where(_is_due(), Row.host == host)
    chosen = session.scalar(due.order_by(Row.next_at_s).limit(1).with_for_update(skip_locked=True))
    if chosen is None:
        return None
    taken = update(Row).where(Row.job_id == chosen)
    taken = taken.values(fence=Row.fence + 1, attempts=Row.attempts + 1, next_at_s=now_s() + lease_s)
    return copied(Claim, session.scalars(taken.returning(Row)).one())


def sent(session: Session, claimed: Claim, *, status: int) -> bool:
    """Note that the receiver has it; False for a claim that is not the last one."""
    return _write(session, claimed, state="sent", last_status=status, error=None, finished_at_s=now_s())


def put_off(session: Session, claimed: Claim, *, pause_s: float, status: int | None, error: str) -> bool:
    """Note that an attempt failed and when the next one is due; False for a claim that is not the last one."""
    return _write(session, claimed, next_at_s=now_s() + pause_s, last_status=status, error=error)


def give_up(session: Session, claimed: Claim, *, status: int | None, error: str) -> bool:
    """Note that the last attempt failed; False for a claim that is not the last one."""
    return _write(session, claimed, state="given_up", last_status=status, error=error, finished_at_s=now_s())


def renew(session: Session, job_ids: Sequence[uuid.UUID]) -> None:
    """Have the next end of jobs that go on after all told anew, whatever became of the last one."""
    again = {"state": "waiting", "attempts": 0, "next_at_s": None, "error": None, "last_status": None}
    renewed = update(Row).where(Row.job_id.in_(job_ids))
    session.execute(renewed.values(fence=Row.fence + 1, finished_at_s=None, **again))


def _is_due() -> ColumnElement[bool]:
    return and_(Row.state == "waiting", Row.next_at_s <= now_s())


@cache
def _becoming_due() -> Update:
    """Give the statement that every end of jobs runs; built once, for building it takes longer than its run."""
    ended = update(Row).where(Row.job_id.in_(bindparam("jobs", expanding=True)), Row.next_at_s.is_(None))
    return ended.values(next_at_s=now_s())


def _write(session: Session, claimed: Claim, **columns: object) -> bool:
    held = update(Row).where(Row.job_id == claimed.job_id, Row.fence == claimed.fence, Row.state == "waiting")
    return session.scalar(held.values(**columns).returning(Row.job_id)) is not None
