"""Labels are audited by heads that never saw them, on a real ledger and with a real, tiny network."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from db import models, session
from pipeline.errors import SnapshotInvalid
from tests.worker.schools import MODEL, School, open_school, picture
from worker.learning import auditing
from worker.learning.auditing import Audit
from worker.learning_messages import LabelledImage

PETS = ("cat", "dog", "hen")


@pytest.fixture
def school(tmp_path: Path, sessions: sessionmaker[Session]) -> Iterator[School]:
    """A model whose labels of three classes suffice."""
    with open_school(tmp_path / "mill", sessions) as opened:
        opened.teach(PETS, 30)
        yield opened


def audit(school: School) -> Audit:
    return auditing.audit_labels(school.workshop, MODEL, school.version("base:1"))


def mislabel(school: School, painted: str, label: str, seed: int) -> str:
    """Label a picture of one class as another."""
    file = school.folder / f"wrong-{seed}.png"
    picture(painted, 90_000 + seed).save(file)
    school.label([LabelledImage(reference=file.as_uri(), label=label, who="bob", source="test")])
    return file.as_uri()


def test_wrong_labels_are_found_with_what_they_should_be_and_those_that_judge_come_first(school: School) -> None:
    wrong = {mislabel(school, "cat", "dog", seed): ("dog", "cat") for seed in range(4)}
    wrong |= {mislabel(school, "hen", "cat", seed): ("cat", "hen") for seed in range(10, 14)}
    found = audit(school)
    assert (found.model, found.base, found.num) == (MODEL, "base:1", 98)
    suspects = {one.reference: (one.label, one.suggested) for one in found.suspects}
    # A backbone with random weights sees little but colours, so not all: 6 of 8, and no more than 3 others.
    assert len(wrong.items() & suspects.items()) >= 6
    assert len(suspects.keys() - wrong.keys()) <= 3
    assert all(one.p_label < one.p_suggested for one in found.suspects)
    order = [("test", "val", "train").index(one.split) for one in found.suspects]
    assert order == sorted(order)
    assert 0.8 < found.balanced_accuracy <= 1.0


def test_an_audit_is_the_same_twice_and_changes_no_label(school: School) -> None:
    assert audit(school) == audit(school)


def test_groups_leave_no_leak(school: School) -> None:
    assert audit(school).leaks == ()


def test_one_picture_in_two_splits_is_a_leak(school: School) -> None:
    """The ledger lets none in, so one is made: the print of a training image, given to a test image."""
    with session.transaction(school.sessions) as transaction:
        split = {
            name: transaction.execute(
                models.Image.__table__.select()
                .join(models.Group.__table__, models.Group.id == models.Image.group_id)
                .where(models.Group.split == name)
                .order_by(models.Image.id)
            ).first()
            for name in ("train", "test")
        }
    known = {one.sha256: one for one in split.values()}
    assert len(known) == 2
    real = auditing.prints.prints

    def forged(reading: Session, model: str) -> dict[str, auditing.Print]:
        found = real(reading, model)
        return found | {split["test"].sha256: found[split["train"].sha256]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditing.prints, "prints", forged)
        [leak] = audit(school).leaks
    assert {(leak.first, leak.first_split), (leak.second, leak.second_split)} == {
        (split["train"].reference, "train"),
        (split["test"].reference, "test"),
    }
    assert leak.distance == 0


def test_images_that_are_gone_are_named(school: School) -> None:
    (school.folder / "cat-0003.png").unlink()
    found = audit(school)
    assert found.lost == ((school.folder / "cat-0003.png").as_uri(),)
    assert found.num == 89


def test_a_class_that_was_removed_or_is_too_small_is_not_audited(school: School) -> None:
    school.teach(("fox",), 1)
    with session.transaction(school.sessions) as transaction:
        transaction.execute(update(models.Class).where(models.Class.name == "hen").values(removed_at_s=1.0))
    found = audit(school)
    assert (found.num, found.left_out) == (60, ("fox",))
    assert {one.label for one in found.suspects} | {one.suggested for one in found.suspects} <= {"cat", "dog"}


def test_without_labels_there_is_nothing_to_audit(school: School) -> None:
    with pytest.raises(SnapshotInvalid):
        auditing.audit_labels(school.workshop, "nobody", school.version("base:1"))
