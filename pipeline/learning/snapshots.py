"""Takes the labels of a moment: image, class and split of each.

Gives them as one content-addressed manifest, and says whether anything can be learned from it.
Knows nothing of pixels, networks or the database the labels came from.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.errors import SnapshotInvalid

#: what an image is for; written once, when its group first appears
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
#: layout of the manifest; raised when an older reader would misread it
FORMAT = 1
#: images a class must have
MIN_PER_CLASS = 2
#: names shown in one message
MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Example:
    """One labelled image."""

    #: hex, of the file's bytes: the image's identity
    sha256: str
    #: where the bytes are
    reference: str
    #: name of its class
    label: str
    split: Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The labels that a run learns from."""

    #: by class number, which is the network's output; a removed class keeps its place
    classes: tuple[str, ...]
    #: those of `classes` that are masked, and have no examples
    removed: tuple[str, ...] = ()
    #: by sha256, each image once
    examples: tuple[Example, ...]

    def of(self, split: Split) -> tuple[Example, ...]:
        """Give the examples of one split, by sha256."""
        return tuple(example for example in self.examples if example.split == split)

    def targets(self, split: Split) -> list[int]:
        """Give the class numbers of one split's examples, in the order of `of`."""
        return targets_of(self.classes, self.of(split))

    def counts(self) -> dict[str, dict[Split, int]]:
        """Count the examples of each class that is not removed, in each split, for the wire."""
        found = Counter((example.label, example.split) for example in self.examples)
        return {name: {split: found[name, split] for split in SPLITS} for name in self.present()}

    def present(self) -> tuple[str, ...]:
        """Give the classes that are not removed, by class number."""
        return tuple(name for name in self.classes if name not in self.removed)

    def as_bytes(self) -> bytes:
        """Give the manifest: JSON lines, a header and then the examples; the same bytes for the same labels."""
        header = {"classes": list(self.classes), "format": FORMAT, "removed": list(self.removed)}
        return "".join(_line(row) for row in [header, *map(_row, self.examples)]).encode()

    def digest(self) -> str:
        """Give the sha256 of the manifest, in hex: the snapshot's identity."""
        return hashlib.sha256(self.as_bytes()).hexdigest()

    def test_digest(self) -> str:
        """Give the sha256 of the test images and their labels, in hex.

        Models measured on equal digests were asked the same questions and marked by the same answers; where the
        images lie, and what else the snapshot holds, does not matter.
        """
        rows = "".join(_line([example.sha256, example.label]) for example in self.of("test"))
        return hashlib.sha256(rows.encode()).hexdigest()


def collect(classes: Sequence[str], examples: Iterable[Example], *, removed: Sequence[str] = ()) -> Snapshot:
    """Make a snapshot, whatever order the examples come in; raise SnapshotInvalid for a contradiction.

    That is a label that is no class or a removed one, an image twice, a class name twice.
    """
    ordered = tuple(sorted(examples))
    _check_names(classes, removed)
    _check_examples(ordered, set(classes) - set(removed))
    masked = tuple(name for name in classes if name in set(removed))
    return Snapshot(classes=tuple(classes), removed=masked, examples=ordered)


def targets_of(classes: Sequence[str], examples: Iterable[Example]) -> list[int]:
    """Give the class numbers of examples, each label's place among `classes`."""
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[example.label] for example in examples]


def from_bytes(data: bytes) -> Snapshot:
    """Read what `as_bytes` gave; raise SnapshotInvalid for anything else."""
    try:
        header, *rows = [json.loads(line) for line in data.decode().splitlines()]
        version = header["format"]
        read = [Example(**row) for row in rows] if version == FORMAT else []
        classes, removed = header["classes"], header["removed"]
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotInvalid(f"This is not a snapshot's manifest: {error!r}.") from error
    if version != FORMAT:
        raise SnapshotInvalid(f"The manifest has format {version}; format {FORMAT} is read here.")
    return collect(classes, read, removed=removed)


def check(snapshot: Snapshot) -> None:
    """Raise SnapshotInvalid, naming what is missing, unless there is enough to train on and to judge by."""
    counts = snapshot.counts()
    if len(counts) < 2:
        known = f"only {next(iter(counts))!r}" if counts else "none"
        raise SnapshotInvalid(f"A model tells at least two classes apart, and the labels name {known}.")
    _refuse_classes(counts, MIN_PER_CLASS, SPLITS, f"fewer than {MIN_PER_CLASS} labelled images")
    _refuse_classes(counts, 1, ("train",), "no training image (all of theirs were drawn for val and test)")
    for split in ("val", "test"):
        if not snapshot.of(split):
            raise SnapshotInvalid(f"No image was drawn for {split}; label more, of different groups.")


def _refuse_classes(counts: Mapping[str, Mapping[Split, int]], least: int, splits: Sequence[Split], lack: str) -> None:
    short = [name for name, found in counts.items() if sum(found[split] for split in splits) < least]
    if short:
        raise SnapshotInvalid(f"Classes with {lack}: {_named(short)}. Label more images of them, or remove them.")


def _check_names(classes: Sequence[str], removed: Sequence[str]) -> None:
    repeated = [name for name, num in Counter(classes).items() if num > 1]
    if repeated:
        raise SnapshotInvalid(f"Classes must be unique, but these are repeated: {_named(repeated)}.")
    unknown = [name for name in removed if name not in classes]
    if unknown:
        raise SnapshotInvalid(f"Removed classes that are no classes: {_named(unknown)}.")


def _check_examples(examples: Sequence[Example], present: set[str]) -> None:
    strange = sorted({example.label for example in examples} - present)
    if strange:
        raise SnapshotInvalid(f"Labels that are no class, or a removed one: {_named(strange)}.")
    lost = sorted({str(example.split) for example in examples} - set(SPLITS))
    if lost:
        raise SnapshotInvalid(f"Splits that do not exist: {_named(lost)}.")
    repeated = [sha256 for sha256, num in Counter(example.sha256 for example in examples).items() if num > 1]
    if repeated:
        raise SnapshotInvalid(f"Images that have two labels: {_named(repeated)}.")


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _row(example: Example) -> dict[str, str]:
    return {field: getattr(example, field) for field in ("label", "reference", "sha256", "split")}


def _line(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
