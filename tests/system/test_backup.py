"""A backup of a running mill, restored elsewhere on the other database: what was waiting there is done here."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from db import jobs, session
from tests import builders, servers
from tests.mills import PATIENCE_S, Mill, await_until
from worker import backups, runtime
from worker.cli import stack as stacks
from worker.client import Client
from worker.settings import Settings

#: more than is done while a backup is made
NUM = 10_000


@pytest.fixture
def elsewhere(postgres: servers.Postgres, mill: Mill, home: Path) -> Iterator[Settings]:
    """Settings of a home of its own, on the database that the running mill is not on."""
    postgres.execute("CREATE DATABASE elsewhere")
    database_url = postgres.url("elsewhere") if mill.settings.database_url.startswith("sqlite") else ""
    yield replace(mill.settings, home=home, database_url=database_url, broker_url="", store="").resolved()
    postgres.execute("DROP DATABASE elsewhere WITH (FORCE)")


@pytest.mark.parametrize("mill", ["sqlite", pytest.param("postgresql", marks=pytest.mark.full)], indirect=True)
def test_a_backup_of_a_running_mill_goes_on_elsewhere(
    mill: Mill, elsewhere: Settings, home: Path, imagemill: list[str]
) -> None:
    references = mill.write_images(50, prefix="backup") * (NUM // 50)
    job = mill.client.submit(references, model="tiny", idempotency_key="backed-up")
    inside = mill.client.submit_bytes([builders.png_bytes(size=(32, 32), seed=n) for n in range(3)], model="tiny")
    await_until(lambda: mill.client.status(job.job_id).num_done > 0, "the job is under way")
    file = home / "mill.tar"
    manifest = backups.back_up(
        mill.sessions, mill.settings.store, file, show=lambda *_: None, now_s=1_800_000_000.0
    )  # here, and not as a process of its own, which would begin when all is done
    assert manifest.missing == []

    ran = subprocess.run(
        [*imagemill, "restore", str(file), "--json"],
        env={**os.environ, **elsewhere.as_env()}, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert set(json.loads(ran.stdout)["versions"]) >= {"tiny:1", "swap:1", "pets:1"}
    with runtime.ledger(elsewhere) as sessions, session.reading(sessions) as reading:
        assert jobs.job(reading, UUID(job.job_id)).num_succeeded < NUM, "else nothing waits, and this proves nothing"
    with (
        stacks.running(elsewhere, say=lambda _: None) as stack,
        Client(elsewhere.broker_url) as client,
        runtime.ledger(elsewhere) as sessions,
    ):
        there = Mill(settings=elsewhere, stack=stack, client=client, sessions=sessions)
        assert client.submit(references, model="tiny", idempotency_key="backed-up").job_id == job.job_id
        for number, job_id in ((NUM, job.job_id), (3, inside.job_id)):
            status = client.wait(job_id, timeout_s=120)
            assert (status.state, status.num_succeeded) == ("succeeded", number)
            assert there.positions(job_id) == dict.fromkeys(range(number), 1)
        [here, again] = (one.classify(references[:1], model="tiny", timeout_s=60)[0] for one in (mill.client, client))
        assert (again.version, again.label) == (here.version, here.label)
