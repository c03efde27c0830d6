"""Sweeps: what time alone changes.

Takes the database's clock. Gives back what dead workers held, and ends jobs past their deadline.
Knows nothing of when to run: any number of sweepers may, at any time.
"""

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import jobs, leases, outcomes, shards
from db.leases import Tally
from db.models import Job, Shard
from db.outcomes import ItemFailure, Outcome
from db.session import now_s
from db.shards import UNCLAIMED, is_claimed, items_of

#: shards looked at in one sweep: a transaction must not grow with a backlog
MAX_SHARDS = 500
#: recorded for an item that was alone in its shard each time its worker died or gave up
KILLED = ItemFailure(
    stage="forward",
    kind="killed_worker",
    message="Every worker that took this item died or failed on it; the workers' logs say how.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaped:
    """What became of the shards whose lease had run out."""

    num_returned: int
    num_split: int
    num_failed: int


def reap(session: Session, *, max_attempts: int) -> Reaped:
    """Give back shards whose lease ran out; after `max_attempts`, halve one, or fail it if it is one item."""
    expired = select(Shard).where(is_claimed(), Shard.lease_until_s <= now_s()).order_by(Shard.id)
    found = session.scalars(expired.limit(MAX_SHARDS).with_for_update(skip_locked=True)).all()
    returned = [shard.id for shard in found if shard.attempts < max_attempts]
    suspects = [shard for shard in found if shard.attempts >= max_attempts]
    crowds = [shard for shard in suspects if shard.num_items > 1]
    culprits = [shard for shard in suspects if shard.num_items == 1]
    session.execute(update(Shard).where(Shard.id.in_(returned)).values(**UNCLAIMED))
    splits = [(shard.job_id, _split(session, shard)) for shard in crowds]
    fails = [(shard.job_id, _fail(session, shard)) for shard in culprits]
    leases.count(session, splits + fails)
    return Reaped(num_returned=len(returned), num_split=len(crowds), num_failed=len(culprits))


def expire(session: Session) -> int:
    """End the jobs whose deadline has passed, keeping the outcomes they have; gives their number."""
    late = select(Job.id).where(Job.finished_at_s.is_(None), Job.deadline_s <= now_s()).order_by(Job.id)
    locked = session.scalars(late.with_for_update(key_share=True, skip_locked=True)).all()
    if locked:
        jobs.end_early(session, locked, state="expired")
    return len(locked)


def _split(session: Session, shard: Shard) -> Tally:
    half = (shard.num_items + 1) // 2
    num_halves = shards.open_all(session, shard, items_of(shard), shard_size=half)
    leases.close(session, [shard.id], state="split")
    return Tally(num_closed=1 - num_halves)


def _fail(session: Session, shard: Shard) -> Tally:
    failed = [
        Outcome(position=item.position, key=item.key, reference=item.reference, error=KILLED)
        for item in items_of(shard)
    ]
    outcomes.insert(session, shard.job_id, shard.id, failed)
    leases.close(session, [shard.id], state="done")
    return Tally(num_closed=1, num_failed=len(failed))
