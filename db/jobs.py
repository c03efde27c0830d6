"""Jobs: what became of each, and the two orders a person can give one.

Takes job ids. Gives views of jobs and of the backlog; cancels and retries.
Knows nothing of workers: they learn of a cancelled job by the leases they no longer hold.

Every transaction here locks the job first, and passes over a shard somebody else has locked.
"""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, case, delete, exists, func, select, tuple_, update
from sqlalchemy.orm import Session

from db import callbacks, errors, shards
from db.models import OPEN, Job, JobState, Outcome, Priority, Removal, Shard, Version, copied, version_name
from db.session import among, now_s
from db.shards import UNCLAIMED, Item, is_waiting, job_works

#: ids in one statement: PostgreSQL takes 65,535 parameters, and a job may have more shards
MAX_IDS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as the ledger holds it."""

    id: uuid.UUID
    model: str
    version_id: int | None
    #: `model:number`; None follows the serving pointer
    version: str | None
    priority: Priority
    state: JobState
    idempotency_key: str | None
    #: labels per outcome
    top_k: int
    num_items: int
    num_received: int
    num_succeeded: int
    num_failed: int
    #: received items without an outcome
    num_waiting: int
    num_open_shards: int
    #: epoch seconds, as are all times here
    deadline_s: float | None
    created_at_s: float
    accepted_at_s: float | None
    started_at_s: float | None
    finished_at_s: float | None
    caller: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Work of one kind that waits for a worker."""

    model: str
    #: `model:number`; None follows the serving pointer
    version: str | None
    priority: Priority
    num_items: int
    num_shards: int
    #: seconds the oldest has waited
    oldest_s: float


def job(session: Session, job_id: uuid.UUID) -> JobView:
    """Read one job; raises UnknownJob."""
    found = session.execute(_views().where(Job.id == job_id)).one_or_none()
    if found is None:
        raise errors.UnknownJob(f"There is no job {job_id}.")
    return _view(*found)


def some(session: Session, job_ids: Sequence[uuid.UUID]) -> list[JobView]:
    """Read those of these jobs that there are, in no order."""
    chosen = _views().where(among(session, Job.id, job_ids))
    return [_view(*found) for found in session.execute(chosen)]


def marks(session: Session, job_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, tuple[object, ...]]:
    """Read what changes of jobs as they go, and no more: many are looked at, many times a second."""
    chosen = select(Job.id, Job.state, Job.num_succeeded, Job.num_failed).where(among(session, Job.id, job_ids))
    return {job_id: tuple(rest) for job_id, *rest in session.execute(chosen)}


def jobs(
    session: Session,
    *,
    limit: int,
    state: JobState | None = None,
    caller: str | None = None,
    before: JobView | None = None,
) -> list[JobView]:
    """List up to `limit` jobs, newest first: those of one caller, or those made before another, where that is given."""
    newest = _views().order_by(Job.created_at_s.desc(), Job.id.desc()).limit(limit)
    if state is not None:
        newest = newest.where(Job.state == state)
    if caller is not None:
        newest = newest.where(Job.caller == caller)
    if before is not None:
        newest = newest.where(tuple_(Job.created_at_s, Job.id) < (before.created_at_s, before.id))
    return [_view(*found) for found in session.execute(newest)]


def waiting_items(session: Session) -> list[Backlog]:
    """Sum up the work no worker has claimed yet, per model, version and priority."""
    kind = (Shard.model, version_name(), Shard.priority)
    sums = (func.sum(Shard.num_items), func.count(), now_s() - func.min(Shard.created_at_s))
    waiting = (
        select(*kind, *sums)
        .outerjoin(Version, Version.id == Shard.version_id)
        .where(is_waiting(), job_works())
        .group_by(*kind)
        .order_by(*kind)
    )
    return [
        Backlog(
            model=model,
            version=version,
            priority=priority,
            num_items=num_items,
            num_shards=num_shards,
            oldest_s=oldest_s,
        )
        for model, version, priority, num_items, num_shards, oldest_s in session.execute(waiting)
    ]


def cancel(session: Session, job_id: uuid.UUID) -> JobState:
    """End a job early, keeping the outcomes it has; raises UnknownJob and JobFinished."""
    found = _lock(session, job_id)
    if found.state not in OPEN:
        raise errors.JobFinished(f"Job {job_id} is {found.state} already.")
    end_early(session, [job_id], state="cancelled")
    return "cancelled"


def retry(session: Session, job_id: uuid.UUID, *, shard_size: int) -> int:
    """Make a job's failed and unfinished items wait again and clear its deadline; gives their number.

    The errors' rows go in the same transaction. Raises UnknownJob.
    """
    found = _lock(session, job_id)
    failed = _take_back_failed(session, job_id)
    num_shards = shards.open_all(session, found, failed, shard_size=shard_size)
    dropped = update(Shard).where(Shard.job_id == job_id, Shard.state == "dropped")
    revived = session.scalars(
        dropped.values(attempts=0, not_before_s=None, finished_at_s=None, **UNCLAIMED).returning(Shard.num_items)
    ).all()
    # A job that was ended early while its last shard was being recorded has nothing left that could end it again.
    is_left = found.num_open_shards + len(revived) > 0
    if failed or (found.state in ("cancelled", "expired") and is_left):
        _reopen(session, job_id, num_failed=len(failed), num_shards=num_shards + len(revived))
    return len(failed) + sum(revived)


def hold(session: Session, job_id: uuid.UUID) -> None:
    """Keep a job from being removed or revived until this transaction ends. Raises UnknownJob."""
    _lock(session, job_id)


def end_early(session: Session, job_ids: Sequence[uuid.UUID], *, state: JobState) -> None:
    """End jobs this transaction has locked, and drop their shards; the items stay readable.

    A shard that is being claimed or finished right now is passed over: what it ends in is counted as ever.
    """
    left = select(Shard.id).where(Shard.job_id.in_(job_ids), Shard.state.in_(("waiting", "claimed")))
    locked = session.scalars(left.with_for_update(skip_locked=True)).all()
    dropped: Counter[uuid.UUID] = Counter()
    for start in range(0, len(locked), MAX_IDS):
        drop = update(Shard).where(Shard.id.in_(locked[start : start + MAX_IDS]))
        ended_now = {"state": "dropped", "lease_until_s": None, "finished_at_s": now_s()}
        dropped.update(session.scalars(drop.values(**ended_now).returning(Shard.job_id)))
    for job_id in job_ids:
        ended = update(Job).where(Job.id == job_id)
        num_open_shards = Job.num_open_shards - dropped[job_id]
        session.execute(ended.values(state=state, num_open_shards=num_open_shards, finished_at_s=now_s()))
    callbacks.become_due(session, job_ids)


def is_going() -> ColumnElement[bool]:
    """Hold for a job whose removal has begun."""
    return exists().where(Removal.job_id == Job.id)


def _lock(session: Session, job_id: uuid.UUID) -> Job:
    found = session.scalar(select(Job).where(Job.id == job_id, ~is_going()).with_for_update(key_share=True))
    if found is None:
        raise errors.UnknownJob(f"There is no job {job_id}.")
    return found


def _take_back_failed(session: Session, job_id: uuid.UUID) -> list[Item]:
    failed = delete(Outcome).where(Outcome.job_id == job_id, Outcome.error_kind.is_not(None))
    taken = session.execute(failed.returning(Outcome.position, Outcome.key, Outcome.reference))
    return [Item(position=position, key=key, reference=reference) for position, key, reference in sorted(taken)]


def _reopen(session: Session, job_id: uuid.UUID, *, num_failed: int, num_shards: int) -> None:
    complete = Job.num_received == Job.num_items
    reopened = (
        update(Job)
        .where(Job.id == job_id)
        .values(
            state=case((complete, "running"), else_="receiving"),
            num_failed=Job.num_failed - num_failed,
            num_open_shards=Job.num_open_shards + num_shards,
            accepted_at_s=case((complete, func.coalesce(Job.accepted_at_s, now_s())), else_=None),
            started_at_s=case((complete, func.coalesce(Job.started_at_s, now_s())), else_=None),
            deadline_s=None,
            finished_at_s=None,
        )
    )
    session.execute(reopened)
    callbacks.renew(session, [job_id])


def _views() -> Select[Job, str]:
    return select(Job, version_name()).outerjoin(Version, Version.id == Job.version_id)


def _view(row: Job, version: str | None) -> JobView:
    num_waiting = row.num_received - row.num_succeeded - row.num_failed
    return copied(JobView, row, version=version, num_waiting=num_waiting)
