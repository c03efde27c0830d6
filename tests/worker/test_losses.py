"""What goes wrong around a sitting: nothing is recorded twice, nothing is kept from the others."""

import sqlite3
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from db import errors, jobs, leases, registry, session, sweeps
from pipeline import checkpoints
from tests import builders as images
from tests.worker import builders
from worker import claiming, serving

Sessions = sessionmaker[Session]


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
    tally = builders.sit(builders.station(sessions, photos, pool), job_id)
    assert (tally.num_shards, str(tally)) == (0, "nothing left to claim")
    assert builders.outcomes(sessions, job_id) == []


def test_a_bell_that_rings_twice_is_nothing_to_do(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable
) -> None:
    job_id = job(builders.write_images(photos, 2))
    station = builders.station(sessions, photos, pool)
    assert [builders.sit(station, job_id).num_shards for _ in range(2)] == [1, 0]
    assert len(builders.outcomes(sessions, job_id)) == 2


def test_outcomes_of_a_lost_lease_are_dropped(sessions: Sessions, photos: Path, job: Callable) -> None:
    job_id = job(builders.write_images(photos, 2))
    taken = []
    pool = builders.Interrupted(lambda: taken.append(take(sessions, job_id)))
    station = builders.station(sessions, photos, pool, lease_s=builders.OVER_S)
    builders.sit(station, job_id)
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
    # Two batches of two at least are recorded; the error comes amid shards that were claimed together.
    station = builders.station(sessions, photos, builders.Interrupted(cut, at=11), batch_size=2)
    with pytest.raises(PowerCut):
        builders.sit(station, several[0])
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
    flip(Path(saved.reference.removeprefix("file://")) / checkpoints.WEIGHTS)


def flip(weights: Path) -> None:
    """Break a file by its last bit, or mend it."""
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def test_a_shard_whose_version_does_not_load_is_given_back_for_later(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, broken: registry.Version
) -> None:
    job_id = job(builders.write_images(photos, 2))
    station = builders.station(sessions, photos, pool)
    assert builders.sit(station, job_id).num_shards == 0
    [shard] = builders.shards(sessions, job_id)
    with session.reading(sessions) as reading:
        assert shard.not_before_s > session.clock(reading)
    assert (shard.state, shard.attempts, station.held) == ("waiting", 0, {})


def test_work_waits_for_its_version_however_often_it_does_not_load_and_no_other_answers(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, broken: registry.Version
) -> None:
    weights = Path(broken.reference.removeprefix("file://")) / checkpoints.WEIGHTS
    job_id = job(builders.write_images(photos, 2))
    for _ in range(4):
        # A new station each time: one that knows the trouble does not read the checkpoint again at once.
        builders.sit(builders.station(sessions, photos, pool, max_attempts=1), job_id)
        builders.let_wait(sessions)
    assert (builders.outcomes(sessions, job_id), builders.state_of(sessions, job_id)) == ([], "running")
    flip(weights)
    builders.sit(builders.station(sessions, photos, pool, max_attempts=1), job_id)
    assert {(one.error, one.version) for one in builders.outcomes(sessions, job_id)} == {(None, broken.name)}
    assert builders.state_of(sessions, job_id) == "succeeded"


def test_work_on_a_cancelled_job_stops_at_the_next_heartbeat(sessions: Sessions, photos: Path, job: Callable) -> None:
    job_id = job(builders.write_images(photos, 4))

    def cancelled() -> None:
        cancel(sessions, job_id)
        claiming.extend_leases(station)

    pool = builders.Interrupted(cancelled, at=2)
    station = builders.station(sessions, photos, pool, batch_size=1)
    tally = builders.sit(station, job_id)
    assert (pool.num_done, tally.num_shards) == (2, 0)
    assert builders.outcomes(sessions, job_id) == []
    assert (builders.state_of(sessions, job_id), station.held) == ("cancelled", {})


def test_a_heartbeat_extends_what_is_held(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> None:
    job_id = job()
    claim = take(sessions, job_id, owner="ada", lease_s=1.0)
    station = builders.station(sessions, photos, pool, held={claim.shard_id: claim.fence, 999: 1})
    before_s = builders.shards(sessions, job_id)[0].lease_until_s
    claiming.extend_leases(station)
    assert builders.shards(sessions, job_id)[0].lease_until_s > before_s + 30
    assert station.held == {claim.shard_id: claim.fence}


def test_a_sitting_ends_when_its_time_is_up(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> None:
    first, second = (job(builders.write_images(photos, 2)) for _ in range(2))
    assert builders.sit(builders.station(sessions, photos, pool, sitting_s=0.0), first).num_shards == 1
    assert [builders.state_of(sessions, one) for one in (first, second)] == ["succeeded", "accepted"]


def test_a_ledger_that_goes_away_while_recording_is_tried_again(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "RECORD_RETRIES_S", (0.0, 0.0))
    job_id = job(builders.write_images(photos, 2))
    station = builders.station(sessions, photos, pool)
    interrupted = lose_connection_once(sessions, "UPDATE jobs SET state=CASE")
    assert builders.sit(station, job_id).num_shards == 1
    assert interrupted == [1]
    assert len(builders.outcomes(sessions, job_id)) == 2
    assert builders.state_of(sessions, job_id) == "succeeded"


def test_a_ledger_that_stays_away_ends_the_sitting_which_records_on_leaving_if_it_can(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "RECORD_RETRIES_S", ())
    job_id = job(builders.write_images(photos, 2))
    station = builders.station(sessions, photos, pool)
    lose_connection_once(sessions, "UPDATE jobs SET state=CASE")
    with pytest.raises((OperationalError, errors.LedgerUnreachable)):
        builders.sit(station, job_id)
    assert len(builders.outcomes(sessions, job_id)) == 2
    assert (builders.shards(sessions, job_id)[0].state, station.held) == ("done", {})


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


def test_a_shard_that_has_failed_before_sits_alone_so_that_its_neighbours_are_not_blamed(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable
) -> None:
    suspect, *innocent = [job(builders.write_images(photos, 2, first=2 * n)) for n in range(4)]
    with session.transaction(sessions) as transaction:
        first = builders.shards(sessions, suspect)[0].id
        claim = leases.claim(transaction, first, owner="eve", lease_s=60.0)
        leases.release(transaction, claim, delay_s=0.0, forgive=False)
    station = builders.station(sessions, photos, pool)
    assert builders.sit(station, innocent[0]).num_shards == 3, "those without a past share batches"
    assert builders.state_of(sessions, suspect) == "running"
    assert builders.sit(station, suspect).num_shards == 1


def test_a_shard_that_fails_every_time_is_left_to_the_sweep_at_the_last_attempt(
    sessions: Sessions, photos: Path, job: Callable
) -> None:
    job_id = job(builders.write_images(photos, 2))
    for attempt in (1, 2):
        station = builders.station(sessions, photos, builders.Interrupted(cut), max_attempts=2)
        with pytest.raises(PowerCut):
            builders.sit(station, job_id)
        assert builders.shards(sessions, job_id)[0].attempts == attempt
    with session.transaction(sessions) as transaction:
        assert sweeps.reap(transaction, max_attempts=2).num_split == 1
