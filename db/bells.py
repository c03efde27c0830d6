"""Bells: the messages the ledger still owes its waiting shards.

Takes nothing but rows. Gives the shards nobody was told of, and notes when they were.
Knows nothing of the broker: a bell is sent after the commit that put it here.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, or_, select, update
from sqlalchemy.orm import Session, defer

from db import pauses
from db.models import Priority, Shard, copied
from db.session import now_s
from db.shards import is_due, is_waiting, job_works


@dataclass(frozen=True, slots=True, kw_only=True)
class Bell:
    """What a message about one waiting shard needs to find its queue."""

    shard_id: int
    job_id: uuid.UUID
    model: str
    #: None follows the serving pointer
    version_id: int | None
    priority: Priority
    num_items: int


def unrung(session: Session, *, older_than_s: float | None, limit: int) -> list[Bell]:
    """List due shards nobody was told of, or not for `older_than_s` seconds, oldest first."""
    untold: ColumnElement[bool] = Shard.rung_at_s.is_(None)
    if older_than_s is not None:
        untold = or_(untold, Shard.rung_at_s < now_s() - older_than_s)
    return _read(session, _waiting().where(untold).limit(limit))


def take(session: Session, job_id: uuid.UUID, *, limit: int) -> list[Bell]:
    """List up to `limit` of a job's due shards nobody was told of, and note that they are rung for.

    For whoever rings right after this transaction; a bell that is lost in between is rung again by the sweep.
    """
    taken = _read(session, _waiting().where(Shard.job_id == job_id, Shard.rung_at_s.is_(None)).limit(limit))
    session.execute(update(Shard).where(Shard.id.in_([bell.shard_id for bell in taken])).values(rung_at_s=now_s()))
    return taken


def next_like(session: Session, shard_id: int) -> Bell | None:
    """Give the oldest shard that waits, never tried, of the same model, version and priority; not noted as rung for.

    One bell calls for many small shards of a kind: this is the next that it stands for.
    """
    known = session.execute(select(Shard.model, Shard.version_id, Shard.priority).where(Shard.id == shard_id)).first()
    if known is None:
        return None
    model, version_id, priority = known
    alike = _waiting(pauses.is_paused(model, priority))
    alike = alike.where(Shard.model == model, _is_version(version_id), Shard.priority == priority)
    return next(iter(_read(session, alike.where(Shard.attempts == 0).limit(1))), None)


def mark_rung(session: Session, shard_ids: Iterable[int]) -> None:
    """Note that messages for these shards were sent just now."""
    waiting = select(Shard.id).where(Shard.id.in_(list(shard_ids)), is_waiting())
    locked = session.scalars(waiting.order_by(Shard.id).with_for_update()).all()
    session.execute(update(Shard).where(Shard.id.in_(locked)).values(rung_at_s=now_s()))


def _is_version(version_id: int | None) -> ColumnElement[bool]:
    return Shard.version_id.is_(None) if version_id is None else Shard.version_id == version_id


def _waiting(is_paused: ColumnElement[bool] | None = None) -> Select[Shard]:
    blob = defer(Shard.items, raiseload=True)
    goes_on = ~(pauses.is_shard_paused() if is_paused is None else is_paused)
    return select(Shard).options(blob).where(is_waiting(), is_due(), job_works(), goes_on).order_by(Shard.id)


def _read(session: Session, waiting: Select[Shard]) -> list[Bell]:
    return [copied(Bell, shard, shard_id=shard.id) for shard in session.scalars(waiting)]
