"""Retention: what is old enough to go, and how it goes, a bounded number of rows in each transaction.

Takes a time before which things are old, and what is needed however old it is. Gives the rows to time, and what is
named by those that stay. A job goes in this order: a note of its removal, its shards, its own row, its outcomes, the
note. Whoever is killed in between leaves the note, by which the next one goes on; a job's outcomes are whole until it
is gone.
Knows nothing of files.
"""

import uuid
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    Uuid,
    and_,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.orm import Session, aliased, sessionmaker
from sqlalchemy.sql.dml import ReturningDelete

from db import dumps, jobs
from db.models import Drain, Image, Job, Label, LiveCheck, Outcome, Part, Promotion, Removal, Shard, Version, Worker

#: rows that go in one transaction, about
ROWS = 5_000
#: seconds for which outcomes of a job may still be written after it was ended early
LATE_S = 3600.0
#: what every reference to an inline image holds
INLINE = "/inline/"
#: rows read at once; a shard's may be a hundred kilobytes
CHUNK_ROWS = 500

#: version -> outcomes of it that were recorded after this moment are still to be looked at, in epoch seconds
Needed = Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """What one transaction removed."""

    num_shards: int = 0
    num_outcomes: int = 0
    #: nothing of the job is left
    is_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """A job that may go."""

    id: uuid.UUID
    num_outcomes: int


def old_jobs(session: Session, before_s: float, needed: Needed, *, limit: int | None) -> list[Old]:
    """List jobs that ended, or of which nothing more came, before a time, and that nothing needs; oldest first."""
    chosen = select(Job.id, Job.num_succeeded + Job.num_failed).where(
        Job.created_at_s < before_s, _may_go(before_s, needed)
    )
    found = session.execute(chosen.order_by(Job.created_at_s).limit(limit))
    return [Old(id=job_id, num_outcomes=num) for job_id, num in found]


def begin(session: Session, job_id: uuid.UUID, before_s: float, needed: Needed) -> bool:
    """Note that a job is being removed, if it still may go and nobody is at it; from now on nobody revives it."""
    locked = select(Job).where(Job.id == job_id, _may_go(before_s, needed)).with_for_update(skip_locked=True)
    found = session.scalar(locked)
    if found is None:
        return False
    if found.finished_at_s is None:
        jobs.end_early(session, [job_id], state="expired")
    session.add(Removal(job_id=job_id))
    session.flush()
    return True


def going(session: Session) -> list[uuid.UUID]:
    """List the jobs whose removal has begun, oldest first."""
    return list(session.scalars(select(Removal.job_id).order_by(Removal.at_s, Removal.job_id)))


def remove_some(session: Session, job_id: uuid.UUID) -> Gone:
    """Do the next part of a removal that has begun."""
    some = select(Shard.id).where(Shard.job_id == job_id).order_by(Shard.id).limit(ROWS)
    num_shards = _num(session, delete(Shard).where(Shard.id.in_(some)).returning(Shard.id))
    if num_shards:
        return Gone(num_shards=num_shards)
    session.execute(delete(Part).where(Part.job_id == job_id))
    session.execute(delete(Job).where(Job.id == job_id))
    places = select(Outcome.position).where(Outcome.job_id == job_id).order_by(Outcome.position).limit(ROWS)
    recorded = delete(Outcome).where(Outcome.job_id == job_id, Outcome.position.in_(places))
    num_outcomes = _num(session, recorded.returning(Outcome.position))
    if num_outcomes < ROWS:
        session.execute(delete(Removal).where(Removal.job_id == job_id))
    return Gone(num_outcomes=num_outcomes, is_over=num_outcomes < ROWS)


def remove_dead_workers(session: Session, before_s: float) -> int:
    """Forget the workers that were not heard of since a time, and what was asked of such; gives their number."""
    dead = delete(Worker).where(Worker.heartbeat_at_s < before_s)
    num = _num(session, dead.returning(Worker.name))
    lives = exists().where(Worker.host == Drain.host, Worker.parent_pid == Drain.parent_pid)
    session.execute(delete(Drain).where(Drain.at_s < before_s, ~lives))
    return num


def num_dead_workers(session: Session, before_s: float) -> int:
    """Count the workers that were not heard of since a time."""
    return session.execute(select(func.count()).where(Worker.heartbeat_at_s < before_s)).scalar_one()


def num_shards(session: Session, job_ids: Sequence[uuid.UUID]) -> int:
    """Count the shards of jobs."""
    chunks = [job_ids[start : start + jobs.MAX_IDS] for start in range(0, len(job_ids), jobs.MAX_IDS)]
    counts = (select(func.count(Shard.id)).where(Shard.job_id.in_(chunk)) for chunk in chunks)
    return sum(session.execute(count).scalar_one() for count in counts)


def watched(session: Session) -> dict[int, float]:
    """Give the versions whose promotion is being watched, and those before them: all of their outcomes are needed."""
    found = session.execute(
        select(LiveCheck.version_id, LiveCheck.previous_version_id).where(LiveCheck.state == "watching")
    )
    return {version_id: 0.0 for pair in found for version_id in pair}


def never_promoted(session: Session, before_s: float) -> list[tuple[str, str]]:
    """Give (name, reference) of old versions that never served, that nothing learnt from and no job waits for."""
    child = aliased(Version)
    from_it = exists().where(child.parent_id == Version.id)
    promoted = exists().where(Promotion.version_id == Version.id)
    pinned = exists().where(Job.version_id == Version.id, Job.finished_at_s.is_(None))
    chosen = select(Version.model, Version.number, Version.reference).where(
        Version.created_at_s < before_s, ~promoted, ~from_it, ~pinned
    )
    found = session.execute(chosen.order_by(Version.model, Version.number))
    return [(f"{model}:{number}", reference) for model, number, reference in found]


def unnamed(sessions: sessionmaker[Session], names: Collection[str], *, but_of: Collection[uuid.UUID] = ()) -> set[str]:
    """Give those names of inline images that no row ends in, all seen at one moment.

    `but_of` are jobs whose rows do not count.
    """
    left = set(names)
    with (
        dumps.moment(sessions) as connection,
        closing(_inline_references(connection, frozenset(but_of))) as references,
    ):
        for reference in references:
            left.discard(reference.rpartition("/")[2])
            if not left:
                break
    return left


def _inline_references(connection: Connection, but_of: frozenset[uuid.UUID]) -> Generator[str]:
    no_job = literal(None, Uuid)
    for column in (Label.reference, Image.reference):
        for _, reference in _rows(connection, select(no_job, column).where(column.contains(INLINE))):
            yield reference
    blobs = select(Shard.job_id, Shard.items).where(Shard.items.is_not(None), cast(Shard.items, Text).contains(INLINE))
    for job_id, items in _rows(connection, blobs):
        if job_id not in but_of:
            yield from (item[2] for item in items)
    recorded = select(Outcome.job_id, Outcome.reference).where(Outcome.reference.contains(INLINE))
    for job_id, reference in _rows(connection, recorded):
        if job_id not in but_of:
            yield reference


def _rows(connection: Connection, chosen: Select[Any, Any]) -> Generator[tuple[Any, Any]]:
    """Read rows some at a time; whoever has seen enough leaves nothing open."""
    with connection.execute(chosen.execution_options(yield_per=CHUNK_ROWS)) as found:
        yield from found


def _may_go(before_s: float, needed: Needed) -> ColumnElement[bool]:
    return and_(or_(_is_old(before_s, needed), _is_abandoned(before_s)), ~jobs.is_going())


def _is_old(before_s: float, needed: Needed) -> ColumnElement[bool]:
    replays = exists().where(LiveCheck.replay_job_id == Job.id)
    looked_at = [
        and_(or_(Job.version_id == version_id, Job.version_id.is_(None)), Job.finished_at_s > after_s - LATE_S)
        for version_id, after_s in needed.items()
    ]
    return and_(Job.finished_at_s < before_s, ~replays, *(~condition for condition in looked_at))


def _is_abandoned(before_s: float) -> ColumnElement[bool]:
    came_lately = exists().where(Shard.job_id == Job.id, Shard.created_at_s >= before_s)
    return and_(Job.state == "receiving", Job.created_at_s < before_s, ~came_lately)


def _num(session: Session, removed: ReturningDelete[Any]) -> int:
    return len(session.execute(removed).all())
