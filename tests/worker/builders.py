"""The joins put together by hand: a desk, jobs of real images, a station with real, tiny models."""

import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from db import jobs, models, registry, session
from db.outcomes import Recorded, page
from pipeline import checkpoints, decoders, images, references
from pipeline.serving.classifier import Classifier
from tests import builders
from worker import intake, messages, serving, sittings
from worker.warm import Warm

MODEL = "cats"
#: a lease of this length has run out when it begins: no test waits for a clock
OVER_S = -1.0
CPU = torch.device("cpu")


def desk(sessions: sessionmaker[Session], store: Path, **how: object) -> intake.Desk:
    """Give a desk that rings for nobody, with shards of four items."""
    usual = {"ring": lambda _: None, "inline_store": f"file://{store}/inline", "max_inline_bytes": 64, "shard_size": 4}
    return intake.Desk(sessions=sessions, **(usual | how))


def wire(references: Iterable[object] = ("s3://photos/1.jpg",), **fields: object) -> dict[str, object]:
    """Give a submission as it comes from the wire."""
    return {"job_id": str(uuid.uuid4()), "model": MODEL, "items": list(references), **fields}


def submit(at: intake.Desk, references: Iterable[object] = ("s3://photos/1.jpg",), **fields: object) -> uuid.UUID:
    """Submit a job that must be accepted; give its id."""
    reply = intake.submit(at, wire(references, **fields))
    assert isinstance(reply, messages.Receipt), reply
    return uuid.UUID(reply.job_id)


def write_images(folder: Path, num_images: int, *, first: int = 0) -> list[str]:
    """Write real PNG and JPEG files by turns and give their references."""
    made = []
    for seed in range(first, first + num_images):
        suffix, encode = (("png", builders.png_bytes), ("jpg", builders.jpeg_bytes))[seed % 2]
        file = folder / f"{seed:03}.{suffix}"
        file.write_bytes(encode(seed=seed))
        made.append(file.as_uri())
    return made


def version(
    sessions: sessionmaker[Session], saved: checkpoints.Saved, *, model: str = MODEL, serves: bool = False
) -> registry.Version:
    """Register a checkpoint as the model's next version, and let it serve if asked."""
    new = registry.NewVersion(
        model=model,
        arch=saved.card.arch,
        num_classes=len(saved.card.classes),
        reference=saved.reference,
        sha256=saved.sha256,
        source="import",
        parent_id=None,
        metrics={},
        num_parameters=saved.card.num_parameters,
    )
    with session.transaction(sessions) as transaction:
        made = registry.register(transaction, new)
    if serves:
        promote(sessions, made)
    return made


def promote(sessions: sessionmaker[Session], version: registry.Version) -> None:
    """Let a version serve."""
    with session.transaction(sessions) as transaction:
        before = registry.serving(transaction, version.model)
        seen_epoch = before.epoch if before else 0
        registry.promote(transaction, version.model, version.id, seen_epoch=seen_epoch, who="ada", reason="")


def load(version: registry.Version) -> Classifier:
    """Load a version as a classify child on the CPU does."""
    return Classifier.open(version.reference, sha256=version.sha256, device=CPU, precision="fp32", batch_size=2)


def station(sessions: sessionmaker[Session], folder: Path, pool: Executor, **how: object) -> sittings.Station:
    """Give the station of a classify child that may read `folder`."""
    usual: dict[str, object] = {
        "owner": "ada",
        "warm": Warm(load, most=2),
        "roots": references.Roots.parse([str(folder)]),
        "limits": images.Limits(max_bytes=1_000_000, max_pixels=10_000),
        "decoder": decoders.choose("pillow"),
        "lanes": ThreadPoolExecutor(1),
        "num_lanes": 1,
        "batch_size": 8,
        "claim_items": 64,
        "sitting_s": 60.0,
        "lease_s": 60.0,
        "max_attempts": 3,
    }
    return sittings.Station(sessions=sessions, pool=pool, **(usual | how))


def shards(sessions: sessionmaker[Session], job_id: uuid.UUID | None = None) -> list[models.Shard]:
    """Read a job's shards, or all, in the order they were opened."""
    chosen = select(models.Shard).order_by(models.Shard.id)
    with session.reading(sessions) as reading:
        return list(reading.scalars(chosen if job_id is None else chosen.where(models.Shard.job_id == job_id)))


def outcomes(sessions: sessionmaker[Session], job_id: uuid.UUID) -> list[Recorded]:
    """Read a job's outcomes in the order of its items."""
    with session.reading(sessions) as reading:
        return page(reading, job_id, limit=1000)


def sit(station: sittings.Station, job_id: uuid.UUID) -> sittings.Tally:
    """Sit for a job's first shard."""
    return serving.sit(station, shards(station.sessions, job_id)[0].id)


def let_wait(sessions: sessionmaker[Session]) -> None:
    """Let the time pass for which shards were put off."""
    with session.transaction(sessions) as transaction:
        transaction.execute(update(models.Shard).values(not_before_s=None))


def state_of(sessions: sessionmaker[Session], job_id: uuid.UUID) -> str:
    """Read a job's state."""
    with session.reading(sessions) as reading:
        return jobs.job(reading, job_id).state


class Interrupted(Executor):
    """Does its work at once, and something else before the `at`-th piece: what a moment in a sitting looks like.

    A real pool could not be interrupted at a known moment.
    """

    def __init__(self, interrupt: Callable[[], object], *, at: int = 1) -> None:
        self._interrupt = interrupt
        self._left = at
        self.num_done = 0

    def submit(self, work: Callable[..., object], /, *given: object, **named: object) -> "Done":
        self._left -= 1
        if self._left == 0:
            self._interrupt()
        self.num_done += 1
        return Done(partial(work, *given, **named)())


class Done:
    """What a pool gives for work that is done already."""

    def __init__(self, value: object) -> None:
        self._value = value

    def result(self) -> object:
        return self._value

    def done(self) -> bool:
        return True

    def cancel(self) -> bool:
        return False
