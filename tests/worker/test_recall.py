"""Identical bytes are answered from the record, if a worker is told to; never by another version, or with less."""

from collections.abc import Callable
from concurrent.futures import Executor
from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import registry
from db.outcomes import Recorded
from pipeline import checkpoints
from tests.worker import builders

Sessions = sessionmaker[Session]


@pytest.fixture
def classify(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> Callable[..., tuple]:
    """Classify references as one job; gives the tally and the outcomes."""

    def whole(references: list[str], *, recalls: bool = True, **fields: object) -> tuple:
        job_id = job(references, **fields)
        tally = builders.sit(builders.station(sessions, photos, pool, recalls=recalls), job_id)
        return tally, builders.outcomes(sessions, job_id)

    return whole


def said(outcomes: list[Recorded]) -> list[tuple]:
    return [(one.label, one.score, one.top_k, one.version) for one in outcomes]


def copied(references: list[str]) -> list[str]:
    """Give the same bytes under other names."""
    files = [Path(one.removeprefix("file://")) for one in references]
    return [file.rename(file.with_stem(f"{file.stem}-again")).as_uri() for file in files]


def test_the_same_bytes_are_classified_once_and_counted(photos: Path, classify: Callable) -> None:
    references = builders.write_images(photos, 4)
    first, before = classify(references, top_k=2)
    assert (first.num_items, first.num_recalled, first.num_batches) == (4, 0, 1)
    again, after = classify([*copied(references), *builders.write_images(photos, 1, first=4)], top_k=2)
    assert (again.num_items, again.num_recalled, again.num_batches) == (5, 4, 1)
    assert "4 recalled" in str(again)
    assert said(after[:4]) == said(before)
    assert [one.content_sha256 for one in after[:4]] == [
        sha256(Path(one.reference.removeprefix("file://")).read_bytes()).hexdigest() for one in after[:4]
    ]


def test_a_record_of_fewer_labels_than_asked_for_is_not_enough_and_of_more_is_cut(
    photos: Path, classify: Callable
) -> None:
    references = builders.write_images(photos, 2)
    assert classify(references, top_k=1)[0].num_recalled == 0
    assert classify(references, top_k=2)[0].num_recalled == 0
    tally, outcomes = classify(references, top_k=1)
    assert (tally.num_recalled, [len(one.top_k) for one in outcomes]) == (2, [1, 1])
    # There are three classes, and all of them are on record now.
    assert [classify(references, top_k=9)[0].num_recalled for _ in range(2)] == [0, 2]


def test_another_version_says_what_it_thinks_itself(
    sessions: Sessions,
    photos: Path,
    classify: Callable,
    saved: tuple[checkpoints.Saved, ...],
    version: registry.Version,
) -> None:
    references = builders.write_images(photos, 4)
    _, before = classify(references)
    builders.version(sessions, saved[1], serves=True)
    tally, after = classify(references)
    assert (tally.num_recalled, {one.version for one in after}) == (0, {"cats:2"})
    assert said(after) != said(before)


def test_errors_are_not_recalled_and_a_worker_that_is_not_told_to_keeps_no_hashes(
    photos: Path, classify: Callable
) -> None:
    (photos / "broken.png").write_bytes(b"\x89PNG no more")
    broken = [(photos / "broken.png").as_uri()]
    assert [classify(broken)[0].num_recalled for _ in range(2)] == [0, 0]
    references = builders.write_images(photos, 2)
    for _ in range(2):
        tally, outcomes = classify(references, recalls=False)
        assert (tally.num_recalled, [one.content_sha256 for one in outcomes]) == (0, [None, None])
