"""Shards: up to N items of one job, kept as one blob until they are done.

Takes items. Gives waiting shards, and the conditions under which one may be worked on.
Knows nothing of who claims them.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, get_args

from sqlalchemy import ColumnElement, and_, exists, func, insert, literal_column, or_, select
from sqlalchemy.orm import Session

from db import pauses
from db.models import WORKING, Job, Priority, Shard
from db.session import now_s

#: what makes a shard wait for a bell and a worker again
UNCLAIMED: Final = {"state": "waiting", "lease_owner": None, "lease_until_s": None, "rung_at_s": None}


class _Header(Protocol):
    """What a shard takes from its job: of the job's row, of its header, or of a shard that is split."""

    @property
    def model(self) -> str: ...
    @property
    def version_id(self) -> int | None: ...
    @property
    def priority(self) -> Priority: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image to classify."""

    #: index in the job, from 0
    position: int
    #: the caller's own name for it
    key: str | None
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Urgent:
    """Interactive work of one version that waits, never tried."""

    model: str
    #: None follows the serving pointer
    version_id: int | None
    #: seconds the oldest has waited
    waited_s: float


def open_all(session: Session, job: Job | Shard, items: Sequence[Item], *, shard_size: int) -> int:
    """Cut items into waiting shards and give their number; counting them in the job is the caller's.

    `job` is the row whose model, version and priority they take: the job's, or a shard's that is split.
    """
    chunks = [items[start : start + shard_size] for start in range(0, len(items), shard_size)]
    if chunks:
        job_id = job.id if isinstance(job, Job) else job.job_id
        session.execute(insert(Shard), [row(job, job_id, chunk) for chunk in chunks])
    return len(chunks)


def is_any_waiting(session: Session, models: Collection[str]) -> bool:
    """Whether any of the models' shards waits for a worker and is not paused: a look into an index for each kind.

    Kind by kind, for a paused backlog would else be walked from end to end.
    """
    kinds = [
        and_(~pauses.is_paused(model, kind), _waits(model, kind)) for model in models for kind in get_args(Priority)
    ]
    return bool(kinds) and bool(session.scalar(select(or_(*kinds))))


def _waits(model: str, priority: Priority) -> ColumnElement[bool]:
    # As a literal, for the index over interactive work holds these alone.
    return exists(
        select(Shard.id).where(Shard.model == model, Shard.priority == literal_column(f"'{priority}'"), is_waiting())
    )


def urgent(session: Session, models: Collection[str]) -> list[Urgent]:
    """List the models' interactive work that waits, by version: one look into an index that is nearly always empty."""
    kind = (Shard.model, Shard.version_id)
    waiting = (
        select(*kind, now_s() - func.min(Shard.created_at_s))
        .where(Shard.model.in_(models), is_waiting(), Shard.priority == literal_column("'interactive'"))
        .where(is_due(), job_works(), Shard.attempts == 0, ~pauses.is_shard_paused())
        .group_by(*kind)
    )
    return [
        Urgent(model=model, version_id=version_id, waited_s=waited_s)
        for model, version_id, waited_s in session.execute(waiting)
    ]


def items_of(shard: Shard) -> tuple[Item, ...]:
    """Read the items a shard still holds; none once it is done or split."""
    return tuple(
        Item(position=position, key=key, reference=reference) for position, key, reference in shard.items or ()
    )


def is_waiting() -> ColumnElement[bool]:
    """Hold where a shard waits; spelled as the partial indexes are, for a parameter would not match them."""
    return Shard.state == literal_column("'waiting'")


def is_claimed() -> ColumnElement[bool]:
    """Hold where a worker has a shard, or had it when it died."""
    return Shard.state == literal_column("'claimed'")


def is_due() -> ColumnElement[bool]:
    """Hold where a shard is not put off."""
    return or_(Shard.not_before_s.is_(None), Shard.not_before_s <= now_s())


def job_works() -> ColumnElement[bool]:
    """Hold where a shard's job is received in full and has not ended."""
    return exists().where(Job.id == Shard.job_id, Job.state.in_(WORKING))


def row(job: "_Header", job_id: uuid.UUID, chunk: Sequence[Item]) -> dict[str, object]:
    """Give a waiting shard as a row to insert."""
    return {
        "job_id": job_id,
        "model": job.model,
        "version_id": job.version_id,
        "priority": job.priority,
        "num_items": len(chunk),
        "items": [[item.position, item.key, item.reference] for item in chunk],
    }
