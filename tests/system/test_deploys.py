"""Stops, deploys and migrations lose nothing: a worker that is stopped hands over, releases run side by side."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from db import migrate, models, runs, session, workers
from tests import builders
from tests.chaos import rows
from tests.mills import Mill, await_until, make_version, tiny_settings
from tests.worker.schools import picture
from worker.client import Client
from worker.learning_messages import LabelledImage
from worker.settings import PREFIX, Settings
from worker.stack import GRACE_S, Part, Stack

#: both databases, where `make test` has the time for one
FULL = os.environ.get("IMAGEMILL_TEST_CHAOS_FULL") == "1"
DATABASES = ("postgresql", "sqlite")
ROOT = Path(__file__).parents[2]
#: the last revision of our own history whose ledger is at schema 0003
OLD, OLD_SCHEMA = "70f64a3", "0003"
ROLES = ("intake", "classify", "learn", "upkeep")
PETS = ("cat", "dog", "hen")
#: seconds in which others have what a worker gave back; no lease is that short
AT_ONCE_S = 20.0


def alive(sessions: sessionmaker[Session], role: str) -> list[workers.Alive]:
    with session.reading(sessions) as reading:
        return [one for one in workers.list_alive(reading, within_s=10.0) if one.role == role]


def are_ready(sessions: sessionmaker[Session], num: int) -> bool:
    return all(len(alive(sessions, role)) == num for role in ROLES)


def begin_run(client: Client, settings: Settings) -> int:
    """Label real pictures, and have a model learn from them."""
    labels = []
    for number, label in enumerate(PETS):
        for seed in range(30):
            file = Path(settings.allowed_roots[0]) / f"pet-{label}-{seed}.png"
            picture(label, 7000 + 1000 * number + seed).save(file)
            labels.append(LabelledImage(reference=file.as_uri(), label=label, who="ada", source="test"))
    assert client.label_items(labels, model="pets").refused == ()
    return client.retrain(model="pets", strategy="all", reason="across a deploy").id


def run_of(sessions: sessionmaker[Session], run_id: int) -> runs.Run:
    with session.reading(sessions) as reading:
        return runs.run(reading, run_id)


# ---------------------------------------------------------------- a worker that is stopped


@pytest.fixture
def pair(home: Path) -> Iterator[Mill]:
    """Two classify workers and nobody who sweeps: what is given back, and rung for, is all that others hear of."""
    settings = tiny_settings(home, processes=2, shard_size=1000, batch_size=16, torch_threads=1, lease_s=120.0)
    migrate.upgrade(settings.database_url)
    sessions = session.connect(settings.database_url)
    make_version(sessions, settings, "tiny", seed=1)
    with Stack(settings=settings) as stack, Client(settings.broker_url) as client:
        stack.start_redis()
        stack.start("intake", "worker", "intake")
        for number in ("1", "2"):
            stack.start(f"classify-{number}", "worker", "classify", "--number", number)
        await_until(lambda: len(alive(sessions, "classify")) == 2, "two workers are ready")
        yield Mill(settings=settings, stack=stack, client=client, sessions=sessions)
    session.engine_of(sessions).dispose()


def stop(part: Part) -> float:
    """Tell a worker to stop and wait until it has; gives the seconds that took."""
    began_s = time.monotonic()
    part.process.terminate()
    part.process.wait(GRACE_S)
    return time.monotonic() - began_s


def slow_images(mill: Mill, num: int) -> list[str]:
    """Write pictures that take long to decode."""
    files = [mill.images / f"slow-{seed}.png" for seed in range(num)]
    for seed, file in enumerate(files):
        file.write_bytes(builders.png_bytes(size=(1000, 1000), seed=seed))
    return [file.as_uri() for file in files]


def shard_of(mill: Mill, job_id: str) -> models.Shard:
    with session.reading(mill.sessions) as reading:
        return reading.scalars(select(models.Shard).where(models.Shard.job_id == UUID(job_id))).one()


def test_a_classify_worker_that_is_stopped_hands_the_rest_of_its_shard_over_at_once(pair: Mill) -> None:
    job = pair.client.submit(slow_images(pair, 4) * 100, model="tiny")
    await_until(lambda: shard_of(pair, job.job_id).state == "claimed", "a worker has the shard")
    owner = shard_of(pair, job.job_id).lease_owner
    part = pair.part_of(owner)
    stopped_s = time.monotonic()
    part.process.terminate()
    others = (owner, None)
    await_until(lambda: shard_of(pair, job.job_id).lease_owner not in others, "the other has it", patience_s=AT_ONCE_S)
    handed_s = time.monotonic() - stopped_s
    part.process.wait(GRACE_S)
    drained_s = time.monotonic() - stopped_s
    status = pair.client.wait(job.job_id, timeout_s=60)
    assert (status.state, status.num_succeeded) == ("succeeded", 400)
    assert {one.pid for one in alive(pair.sessions, "classify")}.isdisjoint({int(owner.rpartition(":")[2])})
    counted = pair.positions(job.job_id)
    rows.check(
        rows.Row(
            number="stop",
            fault="SIGTERM of a classify worker amid its shard",
            database="sqlite",
            submitted=400,
            recorded=len(counted),
            duplicates=sum(counted.values()) - len(counted),
            recovery_s=(handed_s,),
            note=f"the worker ended after {drained_s:.1f} s",
        )
    )


# ---------------------------------------------------------------- two releases side by side


@pytest.fixture(scope="module")
def old_code() -> Iterator[Path]:
    """The release before the last migration, unpacked from our own history."""
    archive = subprocess.run(["git", "-C", ROOT, "archive", OLD], capture_output=True, check=False)  # noqa: S607
    if archive.returncode:
        pytest.skip(f"revision {OLD} is not here, so no old release can be run beside this one: {archive.stderr!r}")
    folder = Path(tempfile.mkdtemp(prefix="im-old-"))
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(folder, filter="data")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def command_of(code: Path, settings: Settings, *arguments: str) -> list[str]:
    """Give the command line of a release, without the settings that it does not know yet."""
    known = (code / "worker" / "settings.py").read_text()
    added = [name for name in settings.as_env() if f"    {name.removeprefix(PREFIX).lower()}: " not in known]
    unset = [part for name in added for part in ("-u", name)]
    return ["env", *unset, "sh", "-c", 'cd "$0" && exec "$@"', str(code), sys.executable, "-m", "worker", *arguments]


def run_command(code: Path, settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, **settings.as_env()}
    command = command_of(code, settings, *arguments)
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def assert_refused(refused: "subprocess.CompletedProcess[str]", why: str) -> None:
    assert (refused.returncode, refused.stdout) == (2, ""), refused
    [sentence] = refused.stderr.strip().splitlines()
    assert why in sentence


def start(stack: Stack, code: Path, name: str, *arguments: str) -> Part:
    return stack._spawn(name, command_of(code, stack.settings, *arguments))


@contextmanager
def submitting(broker_url: str, references: Sequence[str]) -> Iterator[dict[str, float]]:
    """Submit jobs all the time; gives the ids of those that were acknowledged so far, and the seconds that took."""
    acknowledged: dict[str, float] = {}
    enough = threading.Event()

    def submit() -> None:
        with Client(broker_url) as client:
            while not enough.wait(0.1):
                began_s = time.monotonic()
                receipt = client.submit(references, model="tiny")
                acknowledged[receipt.job_id] = time.monotonic() - began_s

    with ThreadPoolExecutor(1) as caller:
        submits: Future[None] = caller.submit(submit)
        try:
            yield acknowledged
        finally:
            enough.set()
        submits.result()


@pytest.mark.full
@pytest.mark.parametrize("empty_database_url", DATABASES if FULL else DATABASES[:1], indirect=True)
def test_a_rolling_deploy_with_a_migration_under_load_loses_nothing(
    old_code: Path, home: Path, empty_database_url: str
) -> None:
    settings = tiny_settings(home, database_url=empty_database_url, shard_size=4, batch_size=16, torch_threads=1)
    assert run_command(old_code, settings, "db", "upgrade").returncode == 0
    sessions = session.connect(settings.database_url)
    for model in settings.models:
        make_version(sessions, settings, model, seed=1)
    with Stack(settings=settings) as stack, Client(settings.broker_url) as client:
        stack.start_redis()
        for role in ROLES:
            start(stack, old_code, f"old-{role}", "worker", role)
        start(stack, old_code, "old-beat", "beat")
        await_until(lambda: are_ready(sessions, 1), "the old release serves")
        references = write_images(settings, 10)
        with submitting(settings.broker_url, references) as jobs:
            run_id = begin_run(client, settings) if FULL else None
            await_until(lambda: len(jobs) > 10, "jobs come in")
            assert_refused(run_command(ROOT, settings, "worker", "intake"), "older than this release")
            began_s = time.monotonic()
            migrate.upgrade(settings.database_url)
            migrated_s = time.monotonic() - began_s
            assert_refused(run_command(old_code, settings, "worker", "intake"), "newer than this release")
            for role in ROLES:
                start(stack, ROOT, role, "worker", role, "--number", "2")
            start(stack, ROOT, "beat", "beat")
            await_until(lambda: are_ready(sessions, 2), "both releases serve side by side")
            if run_id is not None:
                await_until(lambda: run_of(sessions, run_id).step not in ("snapshot", "plan", None), "the run trains")
            drained_s = {name: stop(part) for part in list(stack.parts) if (name := part.name).startswith("old-")}
            num_before = len(jobs)
            await_until(lambda: len(jobs) > num_before + 10, "jobs come in")
        ended = [client.wait(job, timeout_s=60) for job in jobs]
        if run_id is not None:
            await_until(lambda: run_of(sessions, run_id).finished_at_s is not None, "the run has ended")
            assert run_of(sessions, run_id).state == "succeeded"
        for name in ("old-classify", "classify"):
            assert "items (0 failed)" in (stack.logs / f"{name}.log").read_text(), name
    assert {status.state for status in ended} == {"succeeded"}
    # Intake was stopped, too: whoever was being answered had the answer, and who waited another intake.
    assert max(*drained_s.values(), *jobs.values()) < AT_ONCE_S
    counted = count_outcomes(sessions)
    database = session.engine_of(sessions).dialect.name
    session.engine_of(sessions).dispose()
    rows.check(
        rows.Row(
            number="deploy",
            fault=f"from {OLD_SCHEMA} to {migrate.head()} under load, both releases side by side",
            database=database,
            submitted=len(jobs) * len(references),
            recorded=sum(counted.get(UUID(job), 0) for job in jobs),
            unexpected=len(counted.keys() - {UUID(job) for job in jobs}),
            note=f"migrated in {migrated_s:.2f} s; slowest submit {max(jobs.values()):.1f} s; old workers ended in "
            + ", ".join(f"{name.removeprefix('old-')} {taken_s:.1f} s" for name, taken_s in drained_s.items()),
        )
    )


def write_images(settings: Settings, num: int) -> list[str]:
    files = [Path(settings.allowed_roots[0]) / f"{seed}.png" for seed in range(num)]
    for seed, file in enumerate(files):
        file.write_bytes(builders.png_bytes(size=(32, 32), seed=seed))
    return [file.as_uri() for file in files]


def count_outcomes(sessions: sessionmaker[Session]) -> dict[UUID, int]:
    """Count the outcomes of each job; their key is (job, position), so that none can be there twice."""
    counted = select(models.Outcome.job_id, func.count()).where(models.Outcome.error_kind.is_(None))
    with session.reading(sessions) as reading:
        return dict(reading.execute(counted.group_by(models.Outcome.job_id)).all())
