"""Takes items that a version labelled. Gives a job in which another version classifies them again, and what changed.

Knows nothing of promotions or commands. What was said before travels in each item's key, so a replay tells by itself.
"""

import uuid
from collections import Counter
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
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was said of an item before, and what is said now."""

    number: int
    before: str
    #: None where the other version failed.
    now: str | None
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelChange:
    """What became of the items of one old label."""

    label: str
    num: int
    num_changed: int
    #: Share of them, 0 to 1.
    changed: float
    #: What most of the changed ones are called now; None if none changed.
    mostly: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """How far two versions differ on the same items."""

    #: Items that both labelled.
    num_compared: int
    #: Items that the other version failed on.
    num_failed: int
    num_agreeing: int
    #: Share of the compared, 0 to 1; None if there are none.
    agreement: float | None
    #: Mean of score now minus score before.
    score_shift: float | None
    #: The most changed first.
    per_label: tuple[LabelChange, ...]


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
        number, _, before = (one.key or "").partition("|")
        yield Answer(number=int(number), before=before, now=one.label, score=one.score)


def replay(transaction: Session, job: jobs.JobView, version: registry.Version, *, shard_size: int) -> uuid.UUID:
    """Have a version classify again what a stored job labelled so far; the same replay is the same job.

    Raises `UnknownJob` for a job that labelled nothing.
    """
    if not job.num_succeeded:
        raise UnknownJob(f"Job {job.id} has labelled nothing yet, so there is nothing to replay.")
    job_id = uuid.uuid5(REPLAYS, f"{job.id}|{version.id}|{job.num_succeeded}")
    if ledger.known(transaction, job_id, None) is None:
        # No more than were counted: the job may still be at work.
        labelled = islice(outcomes.stream(transaction, job.id, errors=False), job.num_succeeded)
        said = (Said(number=one.position, reference=one.reference, label=one.label or "") for one in labelled)
        open_job(
            transaction, job_id, version, said, job.num_succeeded, shard_size=shard_size, caller=f"replay of {job.id}"
        )
    return job_id


def disagreement(reading: Session, original: uuid.UUID, replayed: uuid.UUID) -> Disagreement:
    """Compare a job with its replay, item by item, in constant memory."""
    nums, changes, num_failed, shift = Counter[str](), Counter[tuple[str, str]](), 0, 0.0
    before = outcomes.stream(reading, original, errors=False)
    for one in answers(reading, replayed):
        # Both are in the order of the original's items, and each item of a replay is one of those.
        old = next(old for old in before if old.position == one.number)
        if one.now is None:
            num_failed += 1
            continue
        nums[one.before] += 1
        changes[one.before, one.now] += one.now != one.before
        shift += (one.score or 0.0) - (old.score or 0.0)
    num, num_changed = nums.total(), changes.total()
    return Disagreement(
        num_compared=num,
        num_failed=num_failed,
        num_agreeing=num - num_changed,
        agreement=(num - num_changed) / num if num else None,
        score_shift=shift / num if num else None,
        per_label=_per_label(nums, +changes),
    )


def _per_label(nums: Counter[str], changes: Counter[tuple[str, str]]) -> tuple[LabelChange, ...]:
    found = []
    for label, num in nums.items():
        others = Counter({now: count for (before, now), count in changes.items() if before == label})
        num_changed = others.total()
        mostly = min(others, key=lambda now: (-others[now], now)) if others else None
        found.append(
            LabelChange(label=label, num=num, num_changed=num_changed, changed=num_changed / num, mostly=mostly)
        )
    return tuple(sorted(found, key=lambda one: (-one.changed, -one.num_changed, one.label)))
