"""Leases: a worker claims a shard, keeps the claim alive, and ends it once.

Takes shard ids, owners and outcomes. Gives claims, each with a fence: a number that rises with every claim,
so that a write from a claim that was lost is refused. Knows nothing of models, batches or messages.

Every transaction here locks shards before jobs, and jobs in the order of their ids: no two can deadlock.
"""

import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import get_args

from sqlalchemy import ColumnElement, Integer, Select, and_, bindparam, case, or_, select, tuple_, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from db import callbacks, errors, outcomes, pauses
from db.models import Job, JobState, Priority, Shard, ShardState, copied
from db.outcomes import Outcome
from db.session import now_s
from db.shards import UNCLAIMED, Item, is_claimed, is_due, is_waiting, items_of, job_works

#: states in which finishing a job's last shard may leave it
ENDED_BY_WORK: tuple[JobState, ...] = ("succeeded", "partial", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One shard, held by one worker."""

    shard_id: int
    job_id: uuid.UUID
    fence: int
    model: str
    #: None follows the serving pointer
    version_id: int | None
    priority: Priority
    #: labels per outcome
    top_k: int
    #: times it was claimed, this one included
    attempts: int
    #: seconds from when it was opened to this claim, by the database's clock
    waited_s: float = 0.0
    #: of its job
    traceparent: str | None = None
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A job whose last shard was finished."""

    id: uuid.UUID
    model: str
    #: None followed the serving pointer
    version_id: int | None
    priority: Priority
    state: JobState
    num_items: int
    num_succeeded: int
    num_failed: int
    traceparent: str | None
    #: epoch seconds, as are all times here
    created_at_s: float
    started_at_s: float | None
    finished_at_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What became of the claims that were finished together."""

    #: by job id, after this
    states: dict[uuid.UUID, JobState]
    #: jobs that this ended
    ended: tuple[Ended, ...]
    #: ids of shards that were no longer held: nothing of theirs was written
    lost: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How much a transaction moves a job's counters."""

    #: shards that ended, less those that were opened
    num_closed: int = 0
    num_succeeded: int = 0
    num_failed: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            num_closed=self.num_closed + other.num_closed,
            num_succeeded=self.num_succeeded + other.num_succeeded,
            num_failed=self.num_failed + other.num_failed,
        )


def claim(session: Session, shard_id: int, *, owner: str, lease_s: float) -> Claim | None:
    """Claim one shard for `lease_s` seconds; None if it is held, ended, paused, not due, or its job does not run."""
    waiting = and_(is_waiting(), is_due())
    expired = and_(is_claimed(), Shard.lease_until_s <= now_s())
    free = and_(or_(waiting, expired), ~pauses.is_shard_paused())
    return next(iter(_take(session, [shard_id], free, owner=owner, lease_s=lease_s)), None)


def claim_waiting(
    session: Session,
    *,
    model: str,
    version_id: int,
    follows_latest: bool,
    max_items: int,
    owner: str,
    lease_s: float,
    untried: bool = False,
    urgent: bool = False,
) -> list[Claim]:
    """Claim waiting shards of one version, interactive first, then oldest first, up to `max_items` items.

    With `follows_latest`, also those of jobs that follow the serving pointer. The first shard is claimed
    whatever its size. Shards somebody else is claiming just now are passed over, and with `untried` those that
    have cost an attempt already: one of them may cost all that are claimed with it theirs. `urgent` claims interactive
    shards alone, and none that is larger than `max_items`.
    """
    chosen: list[int] = []
    num_items = 0
    priorities = get_args(Priority)[:1] if urgent else get_args(Priority)
    kinds = [(version, priority) for priority in priorities for version in _versions(version_id, follows_latest)]
    wanted = [*([Shard.attempts == 0] if untried else []), *([Shard.num_items <= max_items] if urgent else [])]
    for shard_id, size in _lock_waiting(session, model, kinds, wanted, limit=max_items):
        if chosen and num_items + size > max_items:
            break
        chosen.append(shard_id)
        num_items += size
    return _take(session, chosen, is_waiting(), owner=owner, lease_s=lease_s)


def extend(session: Session, held: Iterable[tuple[int, int]], *, lease_s: float) -> set[int]:
    """Renew the leases of (shard id, fence) pairs; gives the ids still held (a cancelled job's are not)."""
    still_held = _lock_held(session, list(held), job_works())
    session.execute(update(Shard).where(Shard.id.in_(still_held)).values(lease_until_s=now_s() + lease_s))
    return still_held


def finish(session: Session, claim: Claim, recorded: Sequence[Outcome]) -> JobState:
    """Write a claim's outcomes and end its shard; gives the job's state after it.

    Raises LeaseLost, and ValueError unless there is exactly one outcome for each item.
    """
    finished = finish_all(session, [(claim, recorded)])
    if finished.lost:
        raise errors.LeaseLost
    return finished.states[claim.job_id]


def finish_all(session: Session, work: Sequence[tuple[Claim, Sequence[Outcome]]]) -> Finished:
    """Finish several claims in one transaction; the lost ones are passed over and named.

    Calling `finish` in a loop inside one transaction instead could deadlock with another worker.
    """
    for claim, recorded in work:
        _check_covered(claim, recorded)
    ended_at_s = _end(session, [(claim.shard_id, claim.fence) for claim, _ in work])
    kept = [(claim, recorded) for claim, recorded in work if claim.shard_id in ended_at_s]
    if kept:
        written = [(claim.job_id, claim.shard_id, recorded) for claim, recorded in kept]
        outcomes.insert_all(session, written, at_s=max(ended_at_s.values()))
    counted = count(session, [(claim.job_id, _tally(recorded)) for claim, recorded in kept])
    return Finished(
        states={job.id: job.state for job in counted},
        # This transaction has counted these down to no open shard, so none but it can have ended them.
        ended=tuple(copied(Ended, job) for job in counted if job.state in ENDED_BY_WORK and not job.num_open_shards),
        lost=frozenset(claim.shard_id for claim, _ in work) - ended_at_s.keys(),
    )


def finish_part(session: Session, claim: Claim, recorded: Sequence[Outcome]) -> bool:
    """Write the outcomes a claim has so far and leave it the rest, still claimed; False if the lease was lost.

    Where no rest is left the shard ends, as in `finish`.
    """
    if len(recorded) == len(claim.items):
        return not finish_all(session, [(claim, recorded)]).lost
    if not _lock_held(session, [(claim.shard_id, claim.fence)]):
        return False
    done = {one.position for one in recorded}
    rest = [[item.position, item.key, item.reference] for item in claim.items if item.position not in done]
    session.execute(update(Shard).where(Shard.id == claim.shard_id).values(items=rest, num_items=len(rest)))
    outcomes.insert(session, claim.job_id, claim.shard_id, recorded)
    count(session, [(claim.job_id, replace(_tally(recorded), num_closed=0))])
    return True


def release(session: Session, claim: Claim, *, delay_s: float, forgive: bool) -> None:
    """Give a shard back, to be claimed after `delay_s`; `forgive` does not count the attempt.

    A lease that was lost already is left alone.
    """
    returned = (
        update(Shard)
        .where(Shard.id == claim.shard_id, Shard.fence == claim.fence, is_claimed())
        .values(attempts=Shard.attempts - int(forgive), not_before_s=now_s() + delay_s, **UNCLAIMED)
    )
    session.execute(returned)


def close(session: Session, shard_ids: Iterable[int], *, state: ShardState) -> None:
    """End claimed shards that this transaction has locked; their items are no longer waiting work."""
    closed = update(Shard).where(Shard.id.in_(list(shard_ids)))
    session.execute(closed.values(state=state, items=None, lease_until_s=None, finished_at_s=now_s()))


def count(session: Session, tallies: Iterable[tuple[uuid.UUID, Tally]]) -> list[Job]:
    """Move the counters of jobs; a running job whose last open shard closed ends. Gives their rows after it."""
    totals: dict[uuid.UUID, Tally] = {}
    for job_id, tally in tallies:
        totals[job_id] = totals.get(job_id, Tally()) + tally
    _lock_jobs(session, totals)
    alike: dict[Tally, list[uuid.UUID]] = {}
    for job_id, tally in totals.items():
        alike.setdefault(tally, []).append(job_id)
    counted = [job for tally, job_ids in alike.items() for job in _count(session, job_ids, tally)]
    callbacks.become_due(session, [job.id for job in counted if job.finished_at_s is not None])
    return counted


def _lock_jobs(session: Session, job_ids: Collection[uuid.UUID]) -> None:
    """Lock several jobs in the order of their ids; an UPDATE of them takes any order, and one takes itself."""
    if len(job_ids) > 1 and session.get_bind().dialect.name != "sqlite":
        ordered = select(Job.id).where(Job.id.in_(job_ids)).order_by(Job.id)
        session.execute(ordered.with_for_update(key_share=True)).all()


def _count(session: Session, job_ids: Sequence[uuid.UUID], tally: Tally) -> Sequence[Job]:
    moved = {"jobs": job_ids, "closed": tally.num_closed, "succeeded": tally.num_succeeded, "failed": tally.num_failed}
    return session.scalars(_counting(), moved).all()


@cache
def _counting() -> ReturningUpdate[Job]:
    """Give the statement that moves jobs' counters; built once, for building it takes ten times its run."""
    closed, succeeded, failed = (bindparam(name, type_=Integer) for name in ("closed", "succeeded", "failed"))
    ends = and_(Job.state == "running", Job.num_open_shards == closed)
    verdict = case(
        (Job.num_failed + failed == 0, "succeeded"),
        (Job.num_succeeded + succeeded == 0, "failed"),
        else_="partial",
    )
    counted = (
        update(Job)
        .where(Job.id.in_(bindparam("jobs", expanding=True)))
        .values(
            num_succeeded=Job.num_succeeded + succeeded,
            num_failed=Job.num_failed + failed,
            num_open_shards=Job.num_open_shards - closed,
            state=case((ends, verdict), else_=Job.state),
            finished_at_s=case((ends, now_s()), else_=Job.finished_at_s),
        )
    )
    return counted.returning(Job)


def _end(session: Session, held: Sequence[tuple[int, int]]) -> dict[int, float]:
    """End the shards still held of (shard id, fence) pairs; gives the time by shard id."""
    given = {"ids": [shard_id for shard_id, _ in held], "held": held}
    return dict(session.connection().execute(_ending(), given).all())


@cache
def _ending() -> ReturningUpdate[int, float]:
    """Give the statement that locks held shards, in the order of their ids, and ends them; built once as above."""
    ended = update(Shard).where(Shard.id.in_(_held().scalar_subquery()))
    ended = ended.values(state="done", items=None, lease_until_s=None, finished_at_s=now_s())
    return ended.returning(Shard.id, now_s())


@cache
def _held() -> Select[int]:
    """Give the statement that locks shards held under their fences; by their ids, or SQLite would read every shard."""
    is_asked = Shard.id.in_(bindparam("ids", expanding=True))
    is_ours = tuple_(Shard.id, Shard.fence).in_(bindparam("held", expanding=True))
    return select(Shard.id).where(is_asked, is_ours, is_claimed()).order_by(Shard.id).with_for_update(of=Shard)


def _take(
    session: Session, shard_ids: list[int], free: ColumnElement[bool], *, owner: str, lease_s: float
) -> list[Claim]:
    taken = (
        update(Shard)
        .where(Shard.id.in_(shard_ids), free, job_works())
        .values(
            state="claimed",
            fence=Shard.fence + 1,
            attempts=Shard.attempts + 1,
            lease_owner=owner,
            lease_until_s=now_s() + lease_s,
        )
    )
    shards = {shard.id: shard for shard in session.scalars(taken.returning(Shard))}
    started = _start_jobs(session, {shard.job_id for shard in shards.values()})
    taken_in_order = [shards[shard_id] for shard_id in shard_ids if shard_id in shards]
    return [_claim(shard, *started[shard.job_id], lease_s=lease_s) for shard in taken_in_order]


def _claim(shard: Shard, top_k: int, traceparent: str | None, *, lease_s: float) -> Claim:
    # Both ends by the database's clock: the lease began when it was claimed.
    waited_s = max(0.0, (shard.lease_until_s or 0.0) - lease_s - shard.created_at_s)
    about = {"shard_id": shard.id, "top_k": top_k, "traceparent": traceparent, "waited_s": waited_s}
    return copied(Claim, shard, items=items_of(shard), **about)


def _start_jobs(session: Session, job_ids: set[uuid.UUID]) -> dict[uuid.UUID, tuple[int, str | None]]:
    """Start those that have not begun; gives what their claims need to know of each."""
    read = select(Job.id, Job.state, Job.top_k, Job.traceparent)
    jobs = session.execute(read.where(Job.id.in_(job_ids)).order_by(Job.id)).all()
    accepted = [job_id for job_id, state, _, _ in jobs if state == "accepted"]
    if accepted:
        _lock_jobs(session, accepted)
        started = update(Job).where(Job.id.in_(accepted), Job.state == "accepted")
        session.execute(started.values(state="running", started_at_s=now_s()))
    return {job_id: (top_k, traceparent) for job_id, _, top_k, traceparent in jobs}


def _versions(version_id: int, follows_latest: bool) -> list[ColumnElement[bool]]:
    return [Shard.version_id == version_id, *([Shard.version_id.is_(None)] if follows_latest else [])]


def _lock_waiting(
    session: Session,
    model: str,
    kinds: Iterable[tuple[ColumnElement[bool], Priority]],
    wanted: Sequence[ColumnElement[bool]],
    *,
    limit: int,
) -> Iterator[tuple[int, int]]:
    """Give (id, number of items) of due shards, locked; each query is one ordered walk of an index."""
    for version, priority in kinds:
        waiting = (
            select(Shard.id, Shard.num_items)
            .where(Shard.model == model, version, Shard.priority == priority, is_waiting())
            .where(is_due(), job_works(), *wanted, ~pauses.is_paused(model, priority))
            .order_by(Shard.id)
            .limit(limit)
            .with_for_update(skip_locked=True, of=Shard)
        )
        yield from session.execute(waiting)


def _lock_held(session: Session, held: Sequence[tuple[int, int]], *conditions: ColumnElement[bool]) -> set[int]:
    given = {"ids": [shard_id for shard_id, _ in held], "held": held}
    return set(session.scalars(_held().where(*conditions), given))


def _check_covered(claim: Claim, recorded: Sequence[Outcome]) -> None:
    if sorted(one.position for one in recorded) != [item.position for item in claim.items]:
        raise ValueError(f"Shard {claim.shard_id} needs exactly one outcome for each of its items.")


def _tally(recorded: Sequence[Outcome]) -> Tally:
    num_failed = sum(one.error is not None for one in recorded)
    return Tally(num_closed=1, num_succeeded=len(recorded) - num_failed, num_failed=num_failed)
