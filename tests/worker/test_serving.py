"""A sitting, whole and in process: real images, a real tiny network, a real ledger."""

import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from db import errors, jobs, leases, models, registry, session, shards
from db.outcomes import ItemFailure
from pipeline import checkpoints, decoders
from pipeline.images import Limits
from tests import builders as images
from tests.worker import builders
from worker import claiming, intake, serving
from worker.messages import Notice

Sessions = sessionmaker[Session]


def test_each_item_gets_one_outcome(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> None:
    references = builders.write_images(photos, 9)
    job_id = job([{"reference": one, "key": f"key {n}"} for n, one in enumerate(references)], top_k=2)
    station = builders.station(sessions, photos, pool)
    tally = builders.sit(station, job_id)
    assert (tally.num_items, tally.num_shards, tally.num_failed, tally.num_batches) == (9, 3, 0, 2)
    recorded = builders.outcomes(sessions, job_id)
    assert [(one.position, one.key, one.reference) for one in recorded] == [
        (n, f"key {n}", reference) for n, reference in enumerate(references)
    ]
    for one in recorded:
        assert one.label in images.TINY_CLASSES
        assert one.top_k[0] == (one.label, pytest.approx(one.score))
        assert (len(one.top_k), one.version, one.error) == (2, "cats:1", None)
    assert builders.state_of(sessions, job_id) == "succeeded"
    assert station.held == {}


def test_a_sitting_says_what_the_network_says(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, version: registry.Version
) -> None:
    references = builders.write_images(photos, 8)
    job_id = job(references)
    builders.sit(builders.station(sessions, photos, pool), job_id)
    classifier = builders.load(version)
    for one, file in zip(builders.outcomes(sessions, job_id), sorted(photos.iterdir()), strict=True):
        pixels = serving._pixels(classifier, decoders.choose("pillow"), Limits(), file.read_bytes())
        [alone] = classifier.predict(pixels.permute(2, 0, 1)[None], top_k=1)
        assert (one.label, one.score) == (alone.label, pytest.approx(alone.score, abs=1e-5))
    assert len({one.label for one in builders.outcomes(sessions, job_id)}) > 1, "else this proves nothing"


def test_small_shards_of_several_jobs_share_one_batch_and_keep_their_own_top_k(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable
) -> None:
    several = [job(builders.write_images(photos, 2, first=2 * n), top_k=n + 1) for n in range(3)]
    tally = builders.sit(builders.station(sessions, photos, pool), several[0])
    assert (tally.num_batches, tally.num_shards, tally.num_items) == (1, 3, 6)
    for top_k, job_id in enumerate(several, start=1):
        assert [len(one.top_k) for one in builders.outcomes(sessions, job_id)] == [top_k, top_k]
        assert builders.state_of(sessions, job_id) == "succeeded"


def test_a_sitting_of_a_worker_that_is_being_stopped_gives_back_what_it_has_not_begun(
    sessions: Sessions, photos: Path, pool: Executor, version: registry.Version
) -> None:
    desk = builders.desk(sessions, photos, shard_size=32)
    job_id, other = (builders.submit(desk, builders.write_images(photos, 20)) for _ in range(2))
    at = builders.station(sessions, photos, pool, is_stopping=lambda: True)
    tally = builders.sit(at, job_id)
    assert (tally.num_batches, [bell.num_items for bell in tally.left]) == (1, [12])
    assert [shard.state for shard in builders.shards(sessions)] == ["waiting", "waiting"]
    builders.sit(builders.station(sessions, photos, pool), job_id)
    for one in (job_id, other):
        assert builders.state_of(sessions, one) == "succeeded"
        assert [row.position for row in builders.outcomes(sessions, one)] == list(range(20))


def test_a_sitting_whose_time_is_up_keeps_what_it_has_and_gives_the_rest_back(
    sessions: Sessions, photos: Path, pool: Executor, version: registry.Version
) -> None:
    job_id = builders.submit(builders.desk(sessions, photos, shard_size=32), builders.write_images(photos, 20))
    at = builders.station(sessions, photos, pool, sitting_s=1e-9)
    tallies = [builders.sit(at, job_id)]
    [shard] = builders.shards(sessions, job_id)
    assert (shard.state, shard.num_items, shard.attempts) == ("waiting", 12, 0)
    assert [(bell.shard_id, bell.num_items) for bell in tallies[0].left] == [(shard.id, 12)]
    tallies += [builders.sit(at, job_id) for _ in range(2)]
    assert [tally.num_batches for tally in tallies] == [1, 1, 1]
    assert builders.state_of(sessions, job_id) == "succeeded"
    assert [row.position for row in builders.outcomes(sessions, job_id)] == list(range(20))


def test_how_a_job_ended_is_told_after_the_commit_with_its_results(
    sessions: Sessions, photos: Path, pool: Executor, version: registry.Version
) -> None:
    told: list[tuple[Notice, str]] = []

    def tell(notices: Iterator[Notice]) -> None:
        # Another session: what it sees is committed.
        told.extend((one, builders.state_of(sessions, uuid.UUID(one.job_id))) for one in notices)

    desk, station = builders.desk(sessions, photos), builders.station(sessions, photos, pool, tell=tell)
    references = [*builders.write_images(photos, 2), f"file://{photos}/missing.png"]
    small = builders.submit(desk, references, top_k=1)
    large = builders.submit(desk, builders.write_images(photos, 9))
    builders.sit(station, small)
    builders.sit(station, large)
    by_job = {uuid.UUID(notice.job_id): (notice, state) for notice, state in told}
    assert len(told) == len(by_job) == 2
    notice, state = by_job[small]
    assert notice.status.state == state == "partial"
    with session.reading(sessions) as reading:
        assert notice.status == intake.job_status(reading, small)
        assert notice.results == [intake.as_result(row) for row in builders.outcomes(sessions, small)]
        assert by_job[large][0].status == intake.job_status(reading, large)


def test_a_bell_whose_shard_is_gone_calls_for_the_next_of_its_kind(
    sessions: Sessions, photos: Path, pool: Executor, version: registry.Version
) -> None:
    desk, references = builders.desk(sessions, photos), builders.write_images(photos, 1)
    gone, waiting = (builders.submit(desk, references) for _ in range(2))
    follows = builders.submit(desk, references, version="latest")
    with session.transaction(sessions) as transaction:
        jobs.cancel(transaction, gone)
    assert builders.sit(builders.station(sessions, photos, pool), gone).num_shards == 2
    assert [builders.state_of(sessions, one) for one in (waiting, follows)] == ["succeeded"] * 2


def test_a_sitting_cut_short_leaves_a_bell_for_what_its_own_stood_for(
    sessions: Sessions, photos: Path, pool: Executor, version: registry.Version
) -> None:
    desk, references = builders.desk(sessions, photos), builders.write_images(photos, 1)
    first, second = (builders.submit(desk, references) for _ in range(2))
    [bell] = builders.sit(builders.station(sessions, photos, pool, sitting_s=0.0), first).left
    assert bell.job_id == second


def test_another_versions_shards_are_never_in_the_sitting(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, saved: tuple[checkpoints.Saved, ...]
) -> None:
    references = builders.write_images(photos, 2)
    builders.version(sessions, saved[1], serves=True)
    old, new, latest = (job(references, version=asked) for asked in ("cats:1", "cats:2", "latest"))
    station = builders.station(sessions, photos, pool)
    assert builders.sit(station, old).num_shards == 1
    assert [builders.state_of(sessions, one) for one in (old, new, latest)] == ["succeeded", "accepted", "accepted"]
    assert builders.sit(station, new).num_shards == 2, "the pinned and the following one serve the same version"
    versions = [{one.version for one in builders.outcomes(sessions, job_id)} for job_id in (old, new, latest)]
    assert versions == [{"cats:1"}, {"cats:2"}, {"cats:2"}]


def busy(
    sessions: Sessions, photos: Path, pool: Executor, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]
) -> tuple[serving.Tally, uuid.UUID, dict[uuid.UUID, int]]:
    """Sit for a bulk shard of 40, in batches of 8, and do something before the second batch is classified.

    Gives the tally, the bulk job, and how many of its outcomes there were when each job's end was told.
    """
    bulk = builders.submit(builders.desk(sessions, photos, shard_size=64), builders.write_images(photos, 40))
    told: dict[uuid.UUID, int] = {}

    def tell(notices: Iterator[Notice]) -> None:
        told.update({uuid.UUID(one.job_id): len(builders.outcomes(sessions, bulk)) for one in notices})

    monkeypatch.setattr(serving, "LOOK_S", 0.0)
    lane = builders.Interrupted(meanwhile, at=2)
    station = builders.station(sessions, photos, pool, lanes=lane, tell=tell, models=("cats", "dogs"))
    return builders.sit(station, bulk), bulk, told


def test_small_interactive_work_passes_the_bulk_in_hand(
    sessions: Sessions, photos: Path, pool: Executor, version: registry.Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, urgent = builders.desk(sessions, photos), []

    def meanwhile() -> None:
        for asked in (None, "latest"):
            references = builders.write_images(photos, 2, first=50)
            urgent.append(builders.submit(desk, references, version=asked, priority="interactive"))

    tally, bulk, told = busy(sessions, photos, pool, monkeypatch, meanwhile)
    assert told == {urgent[0]: 0, urgent[1]: 0, bulk: 40}
    assert (tally.num_items, tally.num_shards, tally.is_cut_short) == (44, 3, False)
    assert {builders.state_of(sessions, one) for one in (*urgent, bulk)} == {"succeeded"}


@pytest.mark.parametrize("waited_s", [0.0, 1.0], ids=["that came just now", "that nobody took"])
def test_a_sitting_ends_for_interactive_work_of_another_version(
    sessions: Sessions,
    photos: Path,
    pool: Executor,
    saved: tuple[checkpoints.Saved, ...],
    version: registry.Version,
    monkeypatch: pytest.MonkeyPatch,
    waited_s: float,
) -> None:
    builders.version(sessions, saved[1], model="dogs", serves=True)
    desk = builders.desk(sessions, photos)
    urgent: list[uuid.UUID] = []

    def meanwhile() -> None:
        urgent.append(builders.submit(desk, ["file:///1.jpg"], model="dogs", priority="interactive"))
        with session.transaction(sessions) as transaction:
            before = update(models.Shard).where(models.Shard.job_id == urgent[0])
            transaction.execute(before.values(created_at_s=models.Shard.created_at_s - waited_s))

    monkeypatch.setattr(claiming, "CALLED_AWAY_S", 0.5)
    tally, bulk, _ = busy(sessions, photos, pool, monkeypatch, meanwhile)
    assert builders.state_of(sessions, urgent[0]) == "accepted", "no batch mixes versions"
    assert tally.is_cut_short is bool(waited_s)
    if waited_s:
        [shard], [bell] = builders.shards(sessions, bulk), tally.left
        assert (bell.shard_id, shard.state, shard.attempts) == (shard.id, "waiting", 0)
        assert shard.num_items == bell.num_items == 40 - tally.num_items
        assert 0 < tally.num_items < 40
    else:
        assert builders.state_of(sessions, bulk) == "succeeded"


def test_a_look_that_finds_the_ledger_away_costs_nothing(
    sessions: Sessions, photos: Path, pool: Executor, version: registry.Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def away(*_: object) -> list[shards.Urgent]:
        looks.append(1)
        raise errors.LedgerUnreachable

    # At this one statement alone: a database that is really away would keep the records waiting, too.
    monkeypatch.setattr(shards, "urgent", away)
    tally, bulk, told = busy(sessions, photos, pool, monkeypatch, lambda: None)
    assert looks
    assert (tally.num_items, told) == (40, {bulk: 40})


def test_what_cost_an_attempt_lets_nobody_pass(
    sessions: Sessions, photos: Path, pool: Executor, version: registry.Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, urgent = builders.desk(sessions, photos), []

    def meanwhile() -> None:
        with session.transaction(sessions) as transaction:
            assert transaction.scalar(select(models.Shard.attempts)) == 2
        urgent.append(builders.submit(desk, builders.write_images(photos, 2, first=50), priority="interactive"))

    def die_once(transaction: Session, shard_id: int, **how: object) -> leases.Claim | None:
        claim(transaction, shard_id, owner="bob", lease_s=builders.OVER_S)
        return claim(transaction, shard_id, **how)

    claim = leases.claim
    monkeypatch.setattr(leases, "claim", die_once)
    tally, bulk, told = busy(sessions, photos, pool, monkeypatch, meanwhile)
    assert list(told) == [bulk]
    assert tally.num_items == 40


BAD: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "missing": (lambda file: None, "fetch", "missing", "There is no such file."),
    "empty": (lambda file: file.write_bytes(b""), "fetch", "empty", "The file is empty."),
    "directory": (lambda file: file.mkdir(), "fetch", "not_a_file", "It is not a regular file."),
    "FIFO": (os.mkfifo, "fetch", "not_a_file", "It is not a regular file."),
    "link outside": (
        lambda file: file.symlink_to("/etc/passwd"),
        "fetch",
        "outside_roots",
        "The reference points outside the allowed roots (IMAGEMILL_ALLOWED_ROOTS).",
    ),
    "too large": (
        lambda file: file.write_bytes(bytes(1_000_001)),
        "fetch",
        "too_large",
        "The file is larger than the limit of 1000000 bytes.",
    ),
    "text": (
        lambda file: file.write_text("hello"),
        "decode",
        "not_an_image",
        "The file is not an image of a known format.",
    ),
    "truncated": (
        lambda file: file.write_bytes(images.jpeg_bytes()[:-100]),
        "decode",
        "truncated",
        "The image file is cut off before its end.",
    ),
    "too many pixels": (
        lambda file: file.write_bytes(images.png_bytes(size=(101, 100))),
        "decode",
        "too_many_pixels",
        "The image (101 x 100) has more than 10000 pixels.",
    ),
}


def test_a_bad_item_costs_its_neighbours_nothing(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable
) -> None:
    good = builders.write_images(photos, len(BAD) + 1)
    mixed = [good[0]]
    for (make, *_), neighbour in zip(BAD.values(), good[1:], strict=True):
        file = photos / f"bad {len(mixed)}.jpg"
        make(file)
        mixed += [file.as_uri(), neighbour]
    job_id = job(mixed)
    tally = builders.sit(builders.station(sessions, photos, pool), job_id)
    assert (tally.num_items, tally.num_failed) == (len(mixed), len(BAD))
    recorded = builders.outcomes(sessions, job_id)
    expected = [ItemFailure(stage=stage, kind=kind, message=said) for _, stage, kind, said in BAD.values()]
    assert [one.error for one in recorded[1::2]] == expected
    assert all(one.label and not one.error for one in recorded[::2])
    assert {one.version for one in recorded} == {"cats:1"}
    assert builders.state_of(sessions, job_id) == "partial"


OUTSIDE = {
    "outside the roots": ("file:///etc/passwd", "outside_roots"),
    "relative": ("photos/1.jpg", "outside_roots"),
    "a store that is no root": ("s3://bucket/1.jpg", "unsupported_scheme"),
}


@pytest.mark.parametrize(("reference", "kind"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_reference_outside_the_roots_is_not_read(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, reference: str, kind: str
) -> None:
    job_id = job([reference])
    builders.sit(builders.station(sessions, photos, pool), job_id)
    [one] = builders.outcomes(sessions, job_id)
    assert (one.error.stage, one.error.kind) == ("fetch", kind)
    assert builders.state_of(sessions, job_id) == "failed"


def test_a_sitting_tells_the_pace_of_its_model_unless_it_was_over_at_once(
    sessions: Sessions, photos: Path, pool: Executor, version: registry.Version
) -> None:
    station = builders.station(sessions, photos, pool)
    for num_items, told in ((2, False), (serving.PACE_ITEMS, True)):
        desk = builders.desk(sessions, photos, shard_size=100)
        tally = builders.sit(station, builders.submit(desk, builders.write_images(photos, num_items)))
        assert ("cats" in station.paces) is told
    assert station.paces["cats"] == pytest.approx(tally.num_items / tally.total_s)
