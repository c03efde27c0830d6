"""Receiving many small jobs at once.

Takes jobs whose items came in one part and fit into one shard. Gives the bells of those that are new.
Knows nothing of jobs that were there before: `ledger.receive` says what became of those.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import insert
from sqlalchemy.orm import Session

from db import session as database
from db import shards
from db.bells import Bell
from db.ledger import NewJob
from db.models import Job, Part, Shard
from db.session import now_s
from db.shards import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A small job with all its items."""

    job: NewJob
    items: Sequence[Item]
    #: stands for the items
    digest: str


def receive(session: Session, deliveries: Sequence[Delivery]) -> list[Bell]:
    """Accept the jobs that are new, in three statements for all, each as one shard that is noted as rung for.

    A job whose id or key is known gets no bell, and nothing of it is written. `ledger.check_part` comes first.
    """
    if not deliveries:
        return []
    # In the order of the keys: two transactions that insert the same ones wait for each other in one direction only.
    in_order = sorted(deliveries, key=lambda one: (one.job.idempotency_key or "", one.job.id))
    created = database.insert(session, Job).values(accepted_at_s=now_s()).on_conflict_do_nothing().returning(Job.id)
    by_id = {one.job.id: one for one in reversed(in_order)}
    ids = set(session.scalars(created, [_job(one.job) for one in by_id.values()]))
    new = [one for one in by_id.values() if one.job.id in ids]
    if not new:
        return []
    session.execute(insert(Part), [_part(one) for one in new])
    opened = insert(Shard).values(rung_at_s=now_s()).returning(Shard.id, Shard.job_id)
    return [
        _bell(by_id[job_id], shard_id)
        for shard_id, job_id in session.execute(opened, [shards.row(one.job, one.job.id, one.items) for one in new])
    ]


def _job(job: NewJob) -> dict[str, object]:
    return asdict(job) | {"state": "accepted", "num_received": job.num_items, "num_open_shards": 1}


def _part(one: Delivery) -> dict[str, object]:
    return {"job_id": one.job.id, "first_position": 0, "num_items": len(one.items), "digest": one.digest}


def _bell(one: Delivery, shard_id: int) -> Bell:
    return Bell(
        shard_id=shard_id,
        job_id=one.job.id,
        model=one.job.model,
        version_id=one.job.version_id,
        priority=one.job.priority,
        num_items=len(one.items),
    )
