"""Takes a ledger. Gives jobs in it, their shards claimed, and outcomes for them: what intake and workers would do.

Knows nothing of messages, images or clocks.
"""

import uuid
from collections.abc import Iterator, Sequence

from sqlalchemy.orm import Session, sessionmaker

from bench.ledgers import MODEL
from db import leases, ledger, session
from db.leases import Claim
from db.outcomes import Outcome
from db.shards import Item

#: A shard's claim and what became of its items.
Work = tuple[Claim, Sequence[Outcome]]
#: Labels with each outcome, as by default.
TOP_K = tuple((f"class {number}", 0.5**number) for number in range(1, 6))
#: The version that `ledgers.running` registers.
VERSION_ID = 1
#: Items received at once.
PART = 1000


def reference(position: int) -> str:
    """Name an image that nobody will look for."""
    return f"s3://bucket/photos/2026/{position:07}.jpg"


def submit(sessions: sessionmaker[Session], num_items: int, *, shard_size: int) -> uuid.UUID:
    """Receive a job in parts."""
    job = ledger.NewJob(
        id=uuid.uuid4(), model=MODEL, version_id=VERSION_ID, priority="bulk", idempotency_key=None, top_k=len(TOP_K),
        num_items=num_items, deadline_s=None, caller="bench",
    )  # fmt: skip
    for first in range(0, num_items, PART):
        part = [
            Item(position=position, key=f"k{position}", reference=reference(position))
            for position in range(first, min(first + PART, num_items))
        ]
        with session.transaction(sessions) as transaction:
            ledger.receive(transaction, job, part, first_position=first, digest=str(first), shard_size=shard_size)
    return job.id


def claims(sessions: sessionmaker[Session], *, max_items: int) -> list[Claim]:
    """Claim waiting shards as a worker does between two batches."""
    with session.transaction(sessions) as transaction:
        return leases.claim_waiting(
            transaction, model=MODEL, version_id=VERSION_ID, follows_latest=True, max_items=max_items, owner="bench",
            lease_s=3600.0,
        )  # fmt: skip


def claimed(sessions: sessionmaker[Session], num_items: int, *, shard_size: int) -> Iterator[Work]:
    """Submit a job and claim all of it; gives each shard with the outcomes of its items."""
    submit(sessions, num_items, shard_size=shard_size)
    while found := claims(sessions, max_items=16 * shard_size):
        yield from ((claim, outcomes(claim)) for claim in found)


def outcomes(claim: Claim) -> list[Outcome]:
    """Give a label for each item of a claim."""
    return [
        Outcome(
            position=item.position, key=item.key, reference=item.reference, label=TOP_K[0][0], score=TOP_K[0][1],
            top_k=TOP_K, version_id=VERSION_ID,
        )
        for item in claim.items
    ]  # fmt: skip


def finish(sessions: sessionmaker[Session], work: Sequence[Work]) -> None:
    """End claimed shards in one transaction, as a worker does."""
    with session.transaction(sessions) as transaction:
        finished = leases.finish_all(transaction, work)
    assert not finished.lost
