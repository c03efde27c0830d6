"""Receiving jobs, part by part.

Takes a job's header and a part of its items. Gives a receipt once its rows are written.
Knows nothing of messages, or of who classifies the items.
"""

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, case, select, update
from sqlalchemy.orm import Session

from db import errors, shards
from db import session as database
from db.models import Job, JobState, Part, Priority, copied
from db.session import now_s
from db.shards import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job's header, its fields named as the columns are; the same in each of its parts."""

    id: uuid.UUID
    model: str
    #: None follows the serving pointer
    version_id: int | None
    priority: Priority
    idempotency_key: str | None
    #: labels per outcome
    top_k: int
    num_items: int
    #: epoch seconds after which the job expires
    deadline_s: float | None
    caller: str | None
    #: the caller's span that asked for it, as W3C Trace Context writes one
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the ledger holds of a job after a part of it."""

    #: of the job that was there first, when the idempotency key was known
    job_id: uuid.UUID
    state: JobState
    num_received: int
    num_items: int
    #: this part was the last one missing
    newly_accepted: bool


def receive(
    session: Session,
    job: NewJob,
    items: Sequence[Item],
    *,
    first_position: int,
    digest: str,
    shard_size: int,
) -> Receipt:
    """Write a part of a job and its shards; a part that is there already changes nothing.

    `digest` stands for the part's content. Raises PartInvalid, IdempotencyConflict and JobFinished.
    """
    check_part(job, items, first_position)
    found = _create_or_lock(session, job)
    if _is_repeat(session, found.id, first_position, len(items), digest):
        return copied(Receipt, found, job_id=found.id, newly_accepted=False)
    if found.state != "receiving":
        raise errors.JobFinished(f"Job {found.id} is {found.state}; it takes no further parts.")
    part = Part(job_id=found.id, first_position=first_position, num_items=len(items), digest=digest)
    session.add(part)
    num_shards = shards.open_all(session, found, items, shard_size=shard_size)
    counted = _count_part(session, found.id, num_items=len(items), num_shards=num_shards)
    return copied(Receipt, counted, job_id=found.id, newly_accepted=counted.state == "accepted")


def known(session: Session, job_id: uuid.UUID, idempotency_key: str | None) -> NewJob | None:
    """Read the header of the job that has this id or key already: its pinned version holds for all parts."""
    job = session.scalar(select(Job).where(_uses(job_id, idempotency_key)))
    return None if job is None else copied(NewJob, job)


def _uses(job_id: uuid.UUID, idempotency_key: str | None) -> ColumnElement[bool]:
    if idempotency_key is None:
        return Job.id == job_id
    return (Job.id == job_id) | (Job.idempotency_key == idempotency_key)


def check_part(job: NewJob, items: Sequence[Item], first_position: int) -> None:
    """Raise PartInvalid for items that do not fit into the job, or cannot be stored."""
    end = first_position + len(items)
    if not items or first_position < 0 or end > job.num_items:
        raise errors.PartInvalid(f"Items {first_position} to {end - 1} are not within a job of {job.num_items}.")
    if any(item.position != place for place, item in enumerate(items, first_position)):
        raise errors.PartInvalid(f"The positions of a part must be consecutive from {first_position}.")
    written = "".join([item.reference for item in items] + [item.key for item in items if item.key])
    # PostgreSQL refuses NUL, and UTF-8 has no lone surrogates: say so now, not when the outcome is written.
    if "\0" in written or not (written.isascii() or _is_utf8(written)):
        raise errors.PartInvalid("A key or reference holds a character that cannot be stored.")


def _is_utf8(written: str) -> bool:
    try:
        written.encode()
    except UnicodeEncodeError:
        return False
    return True


def _create_or_lock(session: Session, job: NewJob) -> Job:
    created = database.insert(session, Job).values(**asdict(job), state="receiving")
    # Waits for a transaction that is inserting the same job; after it, this one sees that job.
    session.execute(created.on_conflict_do_nothing())
    found = session.scalars(select(Job).where(_uses(job.id, job.idempotency_key)).with_for_update(key_share=True)).all()
    if len(found) != 1 or _header(found[0]) != _header(job):
        raise errors.IdempotencyConflict
    return found[0]


def _header(job: Job | NewJob) -> tuple[object, ...]:
    return (job.idempotency_key, job.model, job.version_id, job.priority, job.top_k, job.num_items)


def _is_repeat(session: Session, job_id: uuid.UUID, first_position: int, num_items: int, digest: str) -> bool:
    overlapping = select(Part).where(
        Part.job_id == job_id,
        Part.first_position < first_position + num_items,
        Part.first_position + Part.num_items > first_position,
    )
    for part in session.scalars(overlapping):
        if (part.first_position, part.num_items) != (first_position, num_items):
            raise errors.PartInvalid(f"Item {max(first_position, part.first_position)} was received in another part.")
        if part.digest != digest:
            raise errors.IdempotencyConflict
        return True
    return False


def _count_part(session: Session, job_id: uuid.UUID, *, num_items: int, num_shards: int) -> Job:
    complete = Job.num_received + num_items == Job.num_items
    counted = (
        update(Job)
        .where(Job.id == job_id)
        .values(
            num_received=Job.num_received + num_items,
            num_open_shards=Job.num_open_shards + num_shards,
            state=case((complete, "accepted"), else_=Job.state),
            accepted_at_s=case((complete, now_s()), else_=None),
        )
    )
    return session.scalars(counted.returning(Job)).one()
