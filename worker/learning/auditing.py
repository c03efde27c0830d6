"""Takes a model's labels. Gives those that the other labels speak against, and pictures that are in two splits at once.

Knows nothing of how a label is corrected. It judges by a backbone that never saw these labels: one that was trained on
them would repeat them.
"""

from dataclasses import dataclass

import torch

from db import near, prints, registry, session
from db.near import Print
from pipeline.learning import audit, heads
from pipeline.learning.evaluation import OutOfFold
from pipeline.learning.heads import CrossValidated
from pipeline.learning.snapshots import SPLITS, Example, Snapshot, Split
from worker.learning import material, snapshotting
from worker.learning.material import Material
from worker.learning.watch import Pace
from worker.learning.workshop import Workshop


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A label to look at again."""

    reference: str
    sha256: str
    split: Split
    label: str
    suggested: str
    #: out-of-fold probability of both
    p_label: float
    p_suggested: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """One picture in two splits."""

    first: str
    first_split: Split
    second: str
    second_split: Split
    #: bits in which their hashes differ
    distance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit found."""

    model: str
    #: the version whose backbone looked
    base: str
    #: digest of the labels that were audited
    snapshot: str
    #: images that could be read
    num: int
    #: of heads on images they were not fitted on; where it is low, suspects mean little
    balanced_accuracy: float
    #: classes with too few images to be audited
    left_out: tuple[str, ...]
    lost: tuple[str, ...]
    #: those of the test split first
    suspects: tuple[Suspect, ...]
    leaks: tuple[Leak, ...]


def audit_labels(workshop: Workshop, model: str, base: registry.Version, *, seed: int = 0) -> Audit:
    """Audit the labels of this moment.

    Raises `SnapshotInvalid`, `StoreUnreachable`, `CheckpointBroken`, `ArchitectureUnknown`.
    """
    taken = snapshotting.take(workshop, model)
    pace = Pace(model=model, seed=seed)
    gathered = material.gather(workshop, pace, taken.snapshot, material.open_start(workshop, base))
    suspects, cross_validated = _suspects(gathered, seed)
    with session.reading(workshop.sessions) as reading:
        known = prints.prints(reading, model)
    return Audit(
        model=model,
        base=base.name,
        snapshot=taken.row.digest,
        num=sum(len(part) for part in (gathered.train, gathered.val, gathered.test)),
        balanced_accuracy=cross_validated.chosen.balanced_accuracy,
        left_out=taken.left_out,
        lost=tuple(one.reference for one in gathered.lost),
        suspects=suspects,
        leaks=_leaks(taken.snapshot, known),
    )


def _suspects(gathered: Material, seed: int) -> tuple[tuple[Suspect, ...], CrossValidated]:
    parts = {split: getattr(gathered, split) for split in SPLITS}
    examples = [example for part in parts.values() for example in part.examples]
    targets = torch.cat([part.targets for part in parts.values()])
    cross_validated = heads.choose_l2(
        torch.cat([part.features for part in parts.values()]),
        targets,
        len(gathered.snapshot.classes),
        seed=seed,
        is_balanced=True,
        removed=gathered.masked,
    )
    found = OutOfFold(probabilities=cross_validated.probabilities, folds=cross_validated.folds)
    rows = audit.suspects(found, targets, [example.split for example in examples])
    return tuple(_suspect(row, examples[row.index], gathered.snapshot) for row in rows), cross_validated


def _suspect(row: audit.Suspect, example: Example, snapshot: Snapshot) -> Suspect:
    return Suspect(
        reference=example.reference,
        sha256=example.sha256,
        split=example.split,
        label=example.label,
        suggested=snapshot.classes[row.suggested],
        p_label=row.p_label,
        p_suggested=row.p_suggested,
    )


def _leaks(snapshot: Snapshot, known: dict[str, Print]) -> tuple[Leak, ...]:
    examples = [example for example in snapshot.examples if example.sha256 in known]
    stamps = [known[example.sha256] for example in examples]

    def looks_alike(one: int, other: int) -> bool:
        return near.difference(stamps[one].thumbnail, stamps[other].thumbnail) < near.MAX_DIFFERENCE

    found = audit.leaks([one.dhash for one in stamps], [example.split for example in examples], looks_alike)
    return tuple(
        Leak(
            first=examples[leak.first].reference,
            first_split=examples[leak.first].split,
            second=examples[leak.second].reference,
            second_split=examples[leak.second].split,
            distance=leak.distance,
        )
        for leak in found
    )
