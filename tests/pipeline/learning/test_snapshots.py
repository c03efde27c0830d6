"""A snapshot is the same bytes for the same labels, and says what it lacks."""

from __future__ import annotations

import json
import random

import pytest

from pipeline.errors import SnapshotInvalid
from pipeline.learning import snapshots
from pipeline.learning.snapshots import Example, Snapshot, Split


def example(number: int, label: str, split: Split = "train", *, reference: str = "") -> Example:
    return Example(sha256=f"{number:064x}", reference=reference or f"file:///{number}.png", label=label, split=split)


def examples() -> list[Example]:
    """Give three classes with an image in each split."""
    splits: tuple[Split, ...] = ("train", "val", "test")
    rows = [(label, split) for label in ("cat", "dog", "hen") for split in splits]
    return [example(number, label, split) for number, (label, split) in enumerate(rows)]


def snapshot(*, classes: tuple[str, ...] = ("cat", "dog", "hen"), removed: tuple[str, ...] = ()) -> Snapshot:
    return snapshots.collect(classes, [row for row in examples() if row.label not in removed], removed=removed)


def test_the_order_of_the_labels_does_not_matter() -> None:
    shuffled = examples()
    random.Random(1).shuffle(shuffled)
    assert snapshots.collect(("cat", "dog", "hen"), shuffled) == snapshot()
    assert snapshots.collect(("cat", "dog", "hen"), shuffled).digest() == snapshot().digest()


def test_the_digest_is_known() -> None:
    assert snapshot().digest() == "f622f764bcf85cf00ce48a46a7ae65578713af0ff97964f0e937c65630900ef2"


@pytest.mark.parametrize(
    "other",
    [
        snapshots.collect(("dog", "cat", "hen"), examples()),
        snapshots.collect(("cat", "dog", "hen", "owl"), examples()),
        snapshots.collect(("cat", "dog", "hen"), examples()[1:]),
        snapshots.collect(("cat", "dog", "hen"), [example(0, "dog"), *examples()[1:]]),
        snapshots.collect(("cat", "dog", "hen"), [example(0, "cat", "val"), *examples()[1:]]),
        snapshots.collect(("cat", "dog", "hen"), [example(0, "cat", reference="s3://a/b"), *examples()[1:]]),
        snapshot(removed=("hen",)),
    ],
    ids=["class order", "a class more", "an image less", "a label", "a split", "a reference", "a removed class"],
)
def test_whatever_differs_shows_in_the_digest(other: Snapshot) -> None:
    assert other.digest() != snapshot().digest()


def test_the_test_digest_is_of_the_test_images_and_their_labels_alone() -> None:
    rows = examples()
    classes = ("cat", "dog", "hen")
    moved = [example(2, "cat", "test", reference="s3://elsewhere"), *rows[3:], *rows[:2], example(99, "cat")]
    assert snapshots.collect(classes, moved).test_digest() == snapshot().test_digest()
    relabelled = [row for row in rows if row.sha256 != rows[2].sha256] + [example(2, "dog", "test")]
    assert snapshots.collect(classes, relabelled).test_digest() != snapshot().test_digest()
    grown = [*rows, example(99, "cat", "test")]
    assert snapshots.collect(classes, grown).test_digest() != snapshot().test_digest()


def test_it_reads_what_it_wrote() -> None:
    written = snapshots.collect(("cät", "dog"), [example(1, "cät"), example(2, "dog", "test", reference='a "b"\n')])
    assert snapshots.from_bytes(written.as_bytes()) == written
    assert len(written.as_bytes().splitlines()) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a snapshot"),
        (b"\xff\xfe", "not a snapshot"),
        (b"[]\n", "not a snapshot"),
        (b"{}\n", "not a snapshot"),
        (b'{"classes":["a","b"],"format":1,"removed":[]}\n{"label":"a"}\n', "not a snapshot"),
        (b'{"classes":["a","b"],"format":2,"removed":[]}\n', "format 2"),
    ],
    ids=["nothing", "not text", "a list", "no header", "half an example", "a later format"],
)
def test_what_is_no_manifest_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(SnapshotInvalid, match=message):
        snapshots.from_bytes(data)


@pytest.mark.parametrize(
    ("classes", "rows", "removed", "message"),
    [
        (("cat", "cat"), [], (), "must be unique.*: cat"),
        (("cat", "dog"), [example(1, "owl")], (), "no class, or a removed one: owl"),
        (("cat", "dog"), [example(1, "dog")], ("dog",), "no class, or a removed one: dog"),
        (("cat", "dog"), [], ("owl",), "no classes: owl"),
        (("cat", "dog"), [example(1, "dog"), example(1, "cat")], (), "two labels: 0000"),
        (("cat", "dog"), [example(1, "dog", "exam")], (), "do not exist: exam"),  # type: ignore[arg-type]
    ],
    ids=[
        "a name twice",
        "a strange label",
        "a removed label",
        "a strange removal",
        "an image twice",
        "a strange split",
    ],
)
def test_a_contradiction_is_refused_by_name(
    classes: tuple[str, ...], rows: list[Example], removed: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SnapshotInvalid, match=message):
        snapshots.collect(classes, rows, removed=removed)


def test_a_manifest_that_was_tampered_with_is_refused() -> None:
    lines = snapshot().as_bytes().decode().splitlines()
    row = json.loads(lines[1])
    lines[1] = json.dumps({**row, "label": "owl"})
    with pytest.raises(SnapshotInvalid, match="owl"):
        snapshots.from_bytes("\n".join(lines).encode())


def test_targets_are_class_numbers_in_the_order_of_the_examples() -> None:
    taken = snapshots.collect(("hen", "cat", "dog"), examples())
    assert [row.label for row in taken.of("test")] == ["cat", "dog", "hen"]
    assert taken.targets("test") == [1, 2, 0]


def test_a_removed_class_keeps_its_place_and_is_not_counted() -> None:
    taken = snapshot(removed=("cat",))
    assert taken.classes == ("cat", "dog", "hen")
    assert taken.targets("train") == [1, 2]
    assert taken.present() == ("dog", "hen")
    assert taken.counts() == {
        "dog": dict.fromkeys(("train", "val", "test"), 1),
        "hen": {"train": 1, "val": 1, "test": 1},
    }


def test_enough_labels_pass() -> None:
    snapshots.check(snapshot())
    snapshots.check(snapshot(removed=("hen",)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "Classes with fewer than 2 labelled images: cat, dog, hen"),
        ([*examples()[:6], example(9, "hen")], "fewer than 2 labelled images: hen.*remove them"),
        ([*examples()[:6], example(9, "hen", "val"), example(10, "hen", "test")], "no training image.*: hen"),
        ([row for row in examples() if row.split != "val"], "drawn for val"),
        ([row for row in [*examples(), example(9, "hen")] if row.split != "test"], "drawn for test"),
    ],
    ids=["nothing", "one image of a class", "no training image of a class", "no val", "no test"],
)
def test_too_few_labels_are_refused_by_name(rows: list[Example], message: str) -> None:
    with pytest.raises(SnapshotInvalid, match=message):
        snapshots.check(snapshots.collect(("cat", "dog", "hen"), rows))


@pytest.mark.parametrize(("classes", "known"), [((), "none"), (("cat",), "only 'cat'")])
def test_one_class_is_nothing_to_tell_apart(classes: tuple[str, ...], known: str) -> None:
    rows = [row for row in examples() if row.label in classes]
    with pytest.raises(SnapshotInvalid, match=f"at least two classes apart, and the labels name {known}"):
        snapshots.check(snapshots.collect(classes, rows))


def test_a_message_names_a_few_of_many() -> None:
    classes = tuple(f"class {number}" for number in range(12))
    with pytest.raises(SnapshotInvalid, match=r"class 0, class 1, class 2, class 3, class 4 and 7 more"):
        snapshots.check(snapshots.collect(classes, []))
