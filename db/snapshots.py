"""Snapshots: the labels of a model at a moment, by the digest of their manifest.

Takes a manifest's digest, its place and its counts. Gives one row for each digest, however often it is taken.
Knows nothing of what the manifest holds.
"""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import models
from db import session as database
from db.models import copied


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSnapshot:
    """A manifest that has been written."""

    model: str
    digest: str
    #: where the manifest lies
    reference: str
    num_images: int
    #: {class: {split: number of images}}
    counts: dict[str, Any]
    #: digest of the test images and their labels
    test_digest: str
    #: the newest label in it
    last_label_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRow(NewSnapshot):
    """A snapshot as the ledger holds it."""

    id: int
    created_at_s: float


def record(session: Session, new: NewSnapshot) -> SnapshotRow:
    """Write a snapshot down; the same labels again are the row that is there."""
    row = models.Snapshot
    written = database.insert(session, row).values(**asdict(new)).on_conflict_do_nothing()
    there = select(row).where(row.model == new.model, row.digest == new.digest)
    found = session.scalar(written.returning(row)) or session.scalars(there).one()
    return copied(SnapshotRow, found)


def by_id(session: Session, snapshot_id: int) -> SnapshotRow:
    """Read the snapshot that a run points to."""
    return copied(SnapshotRow, session.scalars(select(models.Snapshot).where(models.Snapshot.id == snapshot_id)).one())


def latest(session: Session, model: str) -> SnapshotRow | None:
    """Read the snapshot of a model that was first taken last."""
    row = models.Snapshot
    found = session.scalar(select(row).where(row.model == model).order_by(row.id.desc()).limit(1))
    return None if found is None else copied(SnapshotRow, found)
