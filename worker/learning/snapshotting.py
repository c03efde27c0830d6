"""Takes a model's labels as they are now. Gives the snapshot a run learns from, kept in the store and in the ledger.

Knows nothing of pixels. A class that cannot be learned yet is left out by name, and keeps its number.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from db import labels, session
from db import snapshots as rows
from pipeline import errors, stores
from pipeline.learning import snapshots
from pipeline.learning.snapshots import Example, Snapshot
from worker.learning.workshop import Workshop

#: the one file of a snapshot's folder
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A snapshot, where it lies, and what it leaves out."""

    snapshot: Snapshot
    row: rows.NewSnapshot
    #: classes with too few images to train and be judged on
    left_out: tuple[str, ...]


def take(workshop: Workshop, model: str) -> Taken:
    """Read the labels of this moment and write the manifest. Raises `SnapshotInvalid` and `StoreUnreachable`."""
    with session.reading(workshop.sessions) as reading:
        last = labels.last(reading, model)
        classes = labels.classes(reading, model)
        found = [
            Example(sha256=one.sha256, reference=one.reference, label=one.label, split=_split(one.split))
            for one in labels.current(reading, model, until=last)
        ]
    left_out = _left_out([one.name for one in classes if not one.is_removed], found)
    removed = [one.name for one in classes if one.is_removed or one.name in left_out]
    kept = [example for example in found if example.label not in left_out]
    snapshot = snapshots.collect([one.name for one in classes], kept, removed=removed)
    snapshots.check(snapshot)
    digest = snapshot.digest()
    reference = f"{workshop.store.rstrip('/')}/snapshots/{digest[:32]}"
    stores.write_folder(reference, {MANIFEST: snapshot.as_bytes()})
    row = rows.NewSnapshot(
        model=model,
        digest=digest,
        reference=reference,
        num_images=len(snapshot.examples),
        counts=dict(snapshot.counts()),
        test_digest=snapshot.test_digest(),
        last_label_id=last,
    )
    return Taken(snapshot=snapshot, row=row, left_out=left_out)


def read(row: rows.NewSnapshot) -> Snapshot:
    """Read a snapshot's manifest. Raises `SnapshotInvalid` if it is gone or is not what was written."""
    data = stores.read_file(row.reference, MANIFEST)
    snapshot = snapshots.from_bytes(data) if data is not None else None
    if snapshot is None or snapshot.digest() != row.digest:
        raise errors.SnapshotInvalid(f"The manifest at {row.reference} is gone or was changed; ask for a new run.")
    return snapshot


def _left_out(classes: Sequence[str], examples: Sequence[Example]) -> tuple[str, ...]:
    num = Counter(example.label for example in examples)
    num_train = Counter(example.label for example in examples if example.split == "train")
    return tuple(name for name in classes if num[name] < snapshots.MIN_PER_CLASS or not num_train[name])


def _split(name: str) -> snapshots.Split:
    return next(split for split in snapshots.SPLITS if split == name)
