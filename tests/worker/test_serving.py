"""A sitting, whole and in process: real images, a real tiny network, a real ledger."""

import os
import sqlite3
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from db import jobs, leases, registry, session
from db.outcomes import ItemFailure
from pipeline import checkpoints
from pipeline.images import Limits
from tests import builders as images
from tests.worker import builders
from worker import serving

Sessions = sessionmaker[Session]


@pytest.fixture
def job(sessions: Sessions, tmp_path: Path, version: registry.Version) -> Callable[..., uuid.UUID]:
    """Submit a job; its shards wait. `version` serves."""
    return partial(builders.submit, builders.desk(sessions, tmp_path))


def sit(station: serving.Station, job_id: uuid.UUID) -> serving.Tally:
    """Sit for a job's first shard."""
    return serving.sit(station, builders.shards(station.sessions, job_id)[0].id)


def state_of(sessions: Sessions, job_id: uuid.UUID) -> str:
    with session.reading(sessions) as reading:
        return jobs.job(reading, job_id).state


def test_each_item_gets_one_outcome(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> None:
    references = builders.write_images(photos, 9)
    job_id = job([{"reference": one, "key": f"key {n}"} for n, one in enumerate(references)], top_k=2)
    station = builders.station(sessions, photos, pool)
    tally = sit(station, job_id)
    assert (tally.num_items, tally.num_shards, tally.num_failed, tally.num_batches) == (9, 3, 0, 2)
    recorded = builders.outcomes(sessions, job_id)
    assert [(one.position, one.key, one.reference) for one in recorded] == [
        (n, f"key {n}", reference) for n, reference in enumerate(references)
    ]
    for one in recorded:
        assert one.label in images.TINY_CLASSES
        assert one.top_k[0] == (one.label, pytest.approx(one.score))
        assert (len(one.top_k), one.version, one.error) == (2, "cats:1", None)
    assert state_of(sessions, job_id) == "succeeded"
    assert station.held == {}


def test_a_sitting_says_what_the_network_says(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, version: registry.Version
) -> None:
    references = builders.write_images(photos, 8)
    job_id = job(references)
    sit(builders.station(sessions, photos, pool), job_id)
    classifier = builders.load(version)
    for one, file in zip(builders.outcomes(sessions, job_id), sorted(photos.iterdir()), strict=True):
        pixels = serving._pixels(classifier, Limits(), file.read_bytes())
        [alone] = classifier.predict(pixels[None], top_k=1)
        assert (one.label, one.score) == (alone.label, pytest.approx(alone.score, abs=1e-5))
    assert len({one.label for one in builders.outcomes(sessions, job_id)}) > 1, "else this proves nothing"


def test_small_shards_of_several_jobs_share_one_batch_and_keep_their_own_top_k(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable
) -> None:
    several = [job(builders.write_images(photos, 2, first=2 * n), top_k=n + 1) for n in range(3)]
    tally = sit(builders.station(sessions, photos, pool), several[0])
    assert (tally.num_batches, tally.num_shards, tally.num_items) == (1, 3, 6)
    for top_k, job_id in enumerate(several, start=1):
        assert [len(one.top_k) for one in builders.outcomes(sessions, job_id)] == [top_k, top_k]
        assert state_of(sessions, job_id) == "succeeded"


def test_another_versions_shards_are_never_in_the_sitting(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, saved: tuple[checkpoints.Saved, ...]
) -> None:
    references = builders.write_images(photos, 2)
    builders.version(sessions, saved[1], serves=True)
    old, new, latest = (job(references, version=asked) for asked in ("cats:1", "cats:2", "latest"))
    station = builders.station(sessions, photos, pool)
    assert sit(station, old).num_shards == 1
    assert [state_of(sessions, one) for one in (old, new, latest)] == ["succeeded", "accepted", "accepted"]
    assert sit(station, new).num_shards == 2, "the pinned and the following one serve the same version"
    versions = [{one.version for one in builders.outcomes(sessions, job_id)} for job_id in (old, new, latest)]
    assert versions == [{"cats:1"}, {"cats:2"}, {"cats:2"}]


BAD: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "missing": (lambda file: None, "fetch", "missing", "There is no such file."),
    "empty": (lambda file: file.write_bytes(b""), "fetch", "empty", "The file is empty."),
    "directory": (lambda file: file.mkdir(), "fetch", "not_a_file", "It is not a regular file."),
    "FIFO": (os.mkfifo, "fetch", "not_a_file", "It is not a regular file."),
    "link outside": (
        lambda file: file.symlink_to("/etc/passwd"),
        "fetch",
        "outside_roots",
        "The reference points outside the roots this worker may read.",
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
    tally = sit(builders.station(sessions, photos, pool), job_id)
    assert (tally.num_items, tally.num_failed) == (len(mixed), len(BAD))
    recorded = builders.outcomes(sessions, job_id)
    expected = [ItemFailure(stage=stage, kind=kind, message=said) for _, stage, kind, said in BAD.values()]
    assert [one.error for one in recorded[1::2]] == expected
    assert all(one.label and not one.error for one in recorded[::2])
    assert {one.version for one in recorded} == {"cats:1"}
    assert state_of(sessions, job_id) == "partial"


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
    sit(builders.station(sessions, photos, pool), job_id)
    [one] = builders.outcomes(sessions, job_id)
    assert (one.error.stage, one.error.kind) == ("fetch", kind)
    assert state_of(sessions, job_id) == "failed"


def take(sessions: Sessions, job_id: uuid.UUID, *, owner: str = "eve", lease_s: float = 60.0) -> leases.Claim | None:
    """Claim a job's first shard as somebody else."""
    with session.transaction(sessions) as transaction:
        return leases.claim(transaction, builders.shards(sessions, job_id)[0].id, owner=owner, lease_s=lease_s)


def cancel(sessions: Sessions, job_id: uuid.UUID) -> None:
    with session.transaction(sessions) as transaction:
        jobs.cancel(transaction, job_id)


GONE: dict[str, Callable[[Sessions, uuid.UUID], object]] = {"held by another": take, "cancelled": cancel}


@pytest.mark.parametrize("lose", GONE.values(), ids=GONE)
def test_a_bell_for_a_shard_that_is_gone_is_nothing_to_do(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, lose: Callable
) -> None:
    job_id = job(builders.write_images(photos, 2))
    lose(sessions, job_id)
    tally = sit(builders.station(sessions, photos, pool), job_id)
    assert (tally.num_shards, str(tally)) == (0, "nothing left to claim")
    assert builders.outcomes(sessions, job_id) == []


def test_a_bell_that_rings_twice_is_nothing_to_do(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable
) -> None:
    job_id = job(builders.write_images(photos, 2))
    station = builders.station(sessions, photos, pool)
    assert [sit(station, job_id).num_shards for _ in range(2)] == [1, 0]
    assert len(builders.outcomes(sessions, job_id)) == 2


def test_outcomes_of_a_lost_lease_are_dropped(sessions: Sessions, photos: Path, job: Callable) -> None:
    job_id = job(builders.write_images(photos, 2))
    taken = []
    pool = builders.Interrupted(lambda: taken.append(take(sessions, job_id)))
    station = builders.station(sessions, photos, pool, lease_s=builders.OVER_S)
    sit(station, job_id)
    assert builders.outcomes(sessions, job_id) == []
    [shard] = builders.shards(sessions, job_id)
    assert (shard.state, shard.lease_owner, shard.fence) == ("claimed", "eve", taken[0].fence)
    assert station.held == {}


class PowerCut(Exception):
    """What happens in the middle."""


def cut() -> None:
    raise PowerCut


def test_what_an_error_leaves_unfinished_is_given_back(sessions: Sessions, photos: Path, job: Callable) -> None:
    several = [job(builders.write_images(photos, 4, first=4 * n)) for n in range(6)]
    # Two batches of two are recorded; the error comes amid shards that were claimed together.
    station = builders.station(sessions, photos, builders.Interrupted(cut, at=11), batch_size=2)
    with pytest.raises(PowerCut):
        sit(station, several[0])
    assert station.held == {}
    shards = builders.shards(sessions)
    done, left = (shards[:1], shards[1:])
    assert {shard.state for shard in done} == {"done"}
    assert {(shard.state, shard.lease_owner) for shard in left} == {("waiting", None)}
    assert [shard.attempts for shard in left] == [1] * 5, "the attempt counts: this may be the shard that kills"


@pytest.fixture
def broken(sessions: Sessions, tmp_path: Path) -> registry.Version:
    """A version that serves by the ledger and whose weights were damaged since."""
    saved = images.tiny_checkpoint(tmp_path / "broken", seed=3)
    damage(saved)
    return builders.version(sessions, saved, serves=True)


def damage(saved: checkpoints.Saved) -> None:
    weights = Path(saved.reference.removeprefix("file://")) / checkpoints.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def test_a_shard_whose_version_does_not_load_is_given_back_for_later(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, broken: registry.Version
) -> None:
    job_id = job(builders.write_images(photos, 2))
    station = builders.station(sessions, photos, pool)
    assert sit(station, job_id).num_shards == 0
    [shard] = builders.shards(sessions, job_id)
    with session.reading(sessions) as reading:
        assert shard.not_before_s > session.clock(reading)
    assert (shard.state, shard.attempts, station.held) == ("waiting", 1, {})


def test_after_the_last_attempt_each_item_says_that_its_version_does_not_load(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, broken: registry.Version
) -> None:
    job_id = job(builders.write_images(photos, 2))
    station = builders.station(sessions, photos, pool, max_attempts=1)
    assert sit(station, job_id).num_failed == 2
    for one in builders.outcomes(sessions, job_id):
        assert (one.error.stage, one.error.kind, one.version) == ("load", "version_not_loadable", broken.name)
        assert "weights.safetensors" in one.error.message
    assert state_of(sessions, job_id) == "failed"
    assert station.held == {}


def test_work_on_a_cancelled_job_stops_at_the_next_heartbeat(sessions: Sessions, photos: Path, job: Callable) -> None:
    job_id = job(builders.write_images(photos, 4))

    def cancelled() -> None:
        cancel(sessions, job_id)
        serving.extend_leases(station)

    pool = builders.Interrupted(cancelled, at=2)
    station = builders.station(sessions, photos, pool, batch_size=1)
    tally = sit(station, job_id)
    assert (pool.num_done, tally.num_shards) == (2, 0)
    assert builders.outcomes(sessions, job_id) == []
    assert (state_of(sessions, job_id), station.held) == ("cancelled", {})


def test_a_heartbeat_extends_what_is_held(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> None:
    job_id = job()
    claim = take(sessions, job_id, owner="ada", lease_s=1.0)
    station = builders.station(sessions, photos, pool, held={claim.shard_id: claim.fence, 999: 1})
    before_s = builders.shards(sessions, job_id)[0].lease_until_s
    serving.extend_leases(station)
    assert builders.shards(sessions, job_id)[0].lease_until_s > before_s + 30
    assert station.held == {claim.shard_id: claim.fence}


def test_a_sitting_ends_when_its_time_is_up(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> None:
    first, second = (job(builders.write_images(photos, 2)) for _ in range(2))
    assert sit(builders.station(sessions, photos, pool, sitting_s=0.0), first).num_shards == 1
    assert [state_of(sessions, one) for one in (first, second)] == ["succeeded", "accepted"]


def test_a_ledger_that_goes_away_while_recording_is_tried_again(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "RECORD_RETRIES_S", (0.0, 0.0))
    job_id = job(builders.write_images(photos, 2))
    station = builders.station(sessions, photos, pool)
    interrupted = lose_connection_once(sessions, "INSERT INTO outcomes")
    assert sit(station, job_id).num_shards == 1
    assert interrupted == [1]
    assert len(builders.outcomes(sessions, job_id)) == 2
    assert state_of(sessions, job_id) == "succeeded"


def test_a_ledger_that_stays_away_ends_the_sitting(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "RECORD_RETRIES_S", ())
    job_id = job(builders.write_images(photos, 2))
    station = builders.station(sessions, photos, pool)
    lose_connection_once(sessions, "INSERT INTO outcomes")
    with pytest.raises((OperationalError, serving.db_errors.LedgerUnreachable)):
        sit(station, job_id)
    assert builders.outcomes(sessions, job_id) == []
    assert (builders.shards(sessions, job_id)[0].state, station.held) == ("waiting", {})


def lose_connection_once(sessions: Sessions, statement_start: str) -> list[int]:
    """Cut the connection that is about to run such a statement; gives a list that grows to [1] when it was."""
    engine, cuts = session.engine_of(sessions), []

    def interrupt(connection: object, cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith(statement_start) or cuts:
            return
        cuts.append(1)
        if engine.dialect.name == "sqlite":
            # A file has no connection to cut; this is what its driver says when the disk does not answer.
            disk = sqlite3.OperationalError("disk I/O error")
            disk.sqlite_errorname = "SQLITE_IOERR"
            raise OperationalError(statement, None, disk)
        pid = connection.connection.dbapi_connection.info.backend_pid
        with engine.connect() as other:
            other.execute(text(f"SELECT pg_terminate_backend({pid})"))

    event.listen(engine, "before_cursor_execute", interrupt)
    return cuts
