"""Triggers: what each tick of the scheduler decided, and why.

Takes ticks. Gives them back, newest first; refusals for the same reason in a row are one row that counts them.
Knows nothing of schedules or of when a model should learn.
"""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from db import models
from db.models import copied
from db.session import now_s


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTick:
    """A decision, to be recorded."""

    model: str
    is_fired: bool
    #: one sentence; without numbers, or refusals that only count up become a row each
    reason: str
    #: what the decision rested on
    facts: dict[str, Any]
    #: the run that was asked for
    run_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(NewTick):
    """A decision as the ledger holds it: one, or the same refusal several times running."""

    id: int
    #: epoch seconds of the first and of the last of them
    first_at_s: float
    last_at_s: float
    num_ticks: int


def write(session: Session, new: NewTick) -> Tick:
    """Write a decision down, or count it where it repeats the model's last refusal."""
    return copied(Tick, _repeat(session, new) or _begin(session, new))


def ticks(session: Session, model: str | None, limit: int, *, before: int | None = None) -> list[Tick]:
    """List up to `limit` decisions about a model, or about all, newest first; those below a number, if it is given."""
    row = models.Tick
    newest = select(row).order_by(row.id.desc()).limit(limit)
    if before is not None:
        newest = newest.where(row.id < before)
    if model is not None:
        newest = newest.where(row.model == model)
    return [copied(Tick, found) for found in session.scalars(newest)]


def last_fired(session: Session, model: str) -> Tick | None:
    """Read the last decision that asked for a run."""
    row = models.Tick
    found = session.scalar(select(row).where(row.model == model, row.is_fired).order_by(row.id.desc()).limit(1))
    return None if found is None else copied(Tick, found)


def _repeat(session: Session, new: NewTick) -> models.Tick | None:
    if new.is_fired:
        return None
    row = models.Tick
    newest = select(func.max(row.id)).where(row.model == new.model).scalar_subquery()
    repeated = update(row).where(row.id == newest, ~row.is_fired, row.reason == new.reason)
    counted = repeated.values(last_at_s=now_s(), num_ticks=row.num_ticks + 1, facts=new.facts)
    return session.scalar(counted.returning(row))


def _begin(session: Session, new: NewTick) -> models.Tick:
    return session.scalars(insert(models.Tick).values(**asdict(new)).returning(models.Tick)).one()
