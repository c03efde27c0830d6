"""An operator's day on a stack that runs: pause in an incident, drain for a deploy, replay before a promotion."""

from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from db import session, workers
from tests.mills import PATIENCE_S, Mill, await_until
from tests.worker.machine import Machine


@pytest.fixture
def shell(mill: Mill, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    """The command line, in this process: a dozen interpreters would take longer than all they are asked."""
    for name, value in mill.settings.as_env().items():
        monkeypatch.setenv(name, value)
    return Machine(home=mill.settings.home, capture=capsys, sessions=mill.sessions)


def alive(reading: Session, role: str) -> list[workers.Alive]:
    return [one for one in workers.list_alive(reading, within_s=30.0) if one.role == role]


def test_a_paused_model_accepts_work_says_why_it_waits_and_does_it_when_resumed(mill: Mill, shell: Machine) -> None:
    paused = shell.run("pause", "tiny", "--reason", "labels look wrong")
    assert paused.code == 0, paused.err
    try:
        job = mill.client.submit(mill.write_images(3, prefix="paused"), model="tiny")
        # Other models are served meanwhile, so the bell of the paused one was heard, too.
        other = mill.client.submit(mill.write_images(3, prefix="unpaused"), model="swap")
        assert mill.client.wait(other.job_id, timeout_s=PATIENCE_S).state == "succeeded"
        status = mill.client.status(job.job_id)
        assert (status.state, status.num_done) == ("accepted", 0)
        assert "is paused by" in status.note
        assert "labels look wrong" in status.note
        shown = shell.run("status")
        assert "labels look wrong" in shown.out
    finally:
        assert shell.run("resume", "tiny").code == 0
    assert mill.client.wait(job.job_id, timeout_s=PATIENCE_S).state == "succeeded"


def await_one(mill: Mill, role: str) -> None:
    """Wait until the workers that tests before this one killed are held dead."""

    def is_alone() -> bool:
        with session.reading(mill.sessions) as reading:
            return len(alive(reading, role)) == 1

    await_until(is_alone, f"one {role} worker is alive")


def test_a_drained_worker_finishes_takes_no_more_and_comes_back(mill: Mill, shell: Machine) -> None:
    await_one(mill, "classify")
    job = mill.client.submit(mill.write_images(200, prefix="drained"), model="tiny")
    waited = shell.run("drain", "--all", "--role", "classify", "--wait", "--timeout", "60", "--json")
    assert waited.code == 0, (waited.out, waited.err)
    try:
        (name,) = waited.json["asked"]
        assert "drained" in shell.run("status").out
        before = mill.client.status(job.job_id).num_done
        late = mill.client.submit(mill.write_images(3, prefix="late"), model="swap")
        # Two beats: whoever would have taken it has.
        with session.reading(mill.sessions) as reading:
            (worker,) = alive(reading, "classify")
        assert (worker.name, worker.state) == (name, "ready")
        status = mill.client.status(late.job_id)
        assert (status.num_done, mill.client.status(job.job_id).num_done) == (0, before)
        assert "is being drained" in status.note
        # Drained is not dead: the same process is there.
        assert worker.pid == mill.child_pid("classify")
    finally:
        assert shell.run("undrain", "--all").code == 0
    for one in (job, late):
        assert mill.client.wait(one.job_id, timeout_s=PATIENCE_S).state == "succeeded"
    assert set(mill.positions(job.job_id).values()) == {1}


def test_a_drain_that_takes_too_long_exits_1_and_says_who_is_busy(mill: Mill, shell: Machine) -> None:
    await_one(mill, "upkeep")
    try:
        told = shell.run("drain", "--all", "--role", "upkeep", "--wait", "--timeout", "0", "--json")
        assert told.code == 1
        assert len(told.json["busy"]) == 1
    finally:
        shell.run("undrain", "--all")

    def takes_work() -> bool:
        with session.reading(mill.sessions) as reading:
            return all(one.takes_work for one in alive(reading, "upkeep"))

    await_until(takes_work, "upkeep takes work again")


def test_a_challenger_is_compared_on_a_stored_job_and_the_page_shows_where_they_differ(
    mill: Mill, shell: Machine, tmp_path: Path
) -> None:
    names = mill.write_images(12, prefix="replayed")
    broken = mill.images / "broken.png"
    broken.write_bytes(b"no image")
    job = mill.client.submit([*names, broken.as_uri()], model="swap")
    assert mill.client.wait(job.job_id, timeout_s=PATIENCE_S).state == "partial"
    challenger = mill.make_version("swap", seed=7, serve=False)
    page = tmp_path / "page.html"
    told = shell.run("jobs", "replay", job.job_id, "--version", challenger.name, "--report", str(page), "--json")
    assert told.code == 0, told.err  # what failed before may fail again
    found = told.json["disagreement"]
    assert (found["num_compared"], found["num_failed"], found["num_failed_both"]) == (12, 0, 1)
    num_differing = found["num_compared"] - found["num_agreeing"]
    assert sum(change["num"] for change in found["changes"]) == num_differing
    assert page.read_text().count("<img src=") == num_differing
