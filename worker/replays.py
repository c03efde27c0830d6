"""Takes items that a version labelled. Gives a job in which another version classifies them again, and what it says.

Knows nothing of promotions or commands. What was said before travels in each item's key, so a replay tells by itself.
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from sqlalchemy.orm import Session

from db import jobs, ledger, outcomes, registry
from db.errors import UnknownJob
from db.shards import Item

#: Namespace of the ids of jobs that replay: what is replayed once has one id, however often it is asked for.
REPLAYS = uuid.UUID("6f1bd5a2-0d0c-4b58-9a55-3c1de0a2f5be")
#: Items received at a time, and held in memory.
PART = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What was said of an item."""

    #: Tells it from the others of its replay.
    number: int
    reference: str
    #: Empty where it failed.
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was said of an item before, and what is said now."""

    before: str
    #: None where the other version failed.
    now: str | None


def open_job(
    transaction: Session,
    job_id: uuid.UUID,
    version: registry.Version,
    said: Iterable[Said],
    num_items: int,
    *,
    shard_size: int,
    caller: str,
) -> None:
    """Put a job into the ledger that has `version` classify the items again; its shards wait for a bell."""
    job = ledger.NewJob(
        id=job_id,
        model=version.model,
        version_id=version.id,
        priority="bulk",
        idempotency_key=None,
        top_k=1,
        num_items=num_items,
        deadline_s=None,
        caller=caller,
    )
    items = (
        Item(position=position, key=f"{one.number}|{one.label}", reference=one.reference)
        for position, one in enumerate(said)
    )
    while part := list(islice(items, PART)):
        ledger.receive(transaction, job, part, first_position=part[0].position, digest="", shard_size=shard_size)


def answers(reading: Session, job_id: uuid.UUID) -> Iterator[Answer]:
    """Read what a replay has found so far, in the order of its items, in constant memory."""
    for one in outcomes.stream(reading, job_id):
        before = (one.key or "").partition("|")[2]
        yield Answer(before=before, now=one.label)


def number_of(one: outcomes.Recorded) -> int:
    """Give the number by which a replay's item is told from the others."""
    return int((one.key or "").partition("|")[0])


def replay(transaction: Session, job: jobs.JobView, version: registry.Version, *, shard_size: int) -> uuid.UUID:
    """Have a version classify again what a stored job classified so far; the same replay is the same job.

    What failed then is tried again, too. Raises `UnknownJob` for a job that labelled nothing, or is being removed.
    """
    if not job.num_succeeded:
        raise UnknownJob(f"Job {job.id} has labelled nothing yet, so there is nothing to replay.")
    num_done = job.num_succeeded + job.num_failed
    job_id = uuid.uuid5(REPLAYS, f"{job.id}|{version.id}|{num_done}")
    if ledger.known(transaction, job_id, None) is None:
        # Until this is written its images are named by that job alone.
        jobs.hold(transaction, job.id)
        # No more than were counted: the job may still be at work.
        done = islice(outcomes.stream(transaction, job.id), num_done)
        said = (Said(number=one.position, reference=one.reference, label=one.label or "") for one in done)
        open_job(transaction, job_id, version, said, num_done, shard_size=shard_size, caller=f"replay of {job.id}")
    return job_id
