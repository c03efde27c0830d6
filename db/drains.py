"""Drains: requests that a worker takes no more work and finishes what it holds.

Takes the process that takes messages for a worker: a host and a process id. Gives what is asked of it, and how
far it is.
Knows nothing of messages; a worker that starts anew forgets what was asked of the one before.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, exists, select, tuple_, update
from sqlalchemy.orm import Session

from db import session as database
from db.models import Drain, copied
from db.session import now_s

#: a host, and the process there
Place = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of a worker; times are epoch seconds."""

    who: str
    reason: str
    at_s: float
    #: when it held nothing any more; None until then
    drained_at_s: float | None


def ask(session: Session, places: Iterable[Place], *, who: str, reason: str) -> None:
    """Ask workers to take no more work; one that was asked before keeps its time."""
    for host, parent_pid in places:
        asked = {"host": host, "parent_pid": parent_pid, "who": who, "reason": reason, "at_s": now_s()}
        session.execute(database.insert(session, Drain).values(asked).on_conflict_do_nothing())


def take_back(session: Session, places: Iterable[Place]) -> None:
    """Let workers take work again."""
    session.execute(delete(Drain).where(tuple_(Drain.host, Drain.parent_pid).in_(list(places))))


def asked(session: Session, place: Place) -> Asked | None:
    """Read what is asked of a worker; None: to work."""
    found = session.scalar(select(Drain).where(_is_of(place)))
    return None if found is None else copied(Asked, found)


def note_drained(session: Session, place: Place) -> None:
    """Note that a worker that was asked holds nothing any more."""
    session.execute(update(Drain).where(_is_of(place), Drain.drained_at_s.is_(None)).values(drained_at_s=now_s()))


def is_asked(host: str, parent_pid: int) -> ColumnElement[bool]:
    """Hold while that worker is asked to drain."""
    return exists(select(Drain.host).where(_is_of((host, parent_pid))))


def _is_of(place: Place) -> ColumnElement[bool]:
    return (Drain.host == place[0]) & (Drain.parent_pid == place[1])
