"""Jobs are listed, shown, read, cancelled and retried from the command line, without a broker."""

import json
import uuid

import pytest

from db import callbacks, leases, session
from pipeline import checkpoints
from tests.db import builders as rows
from tests.worker import builders
from tests.worker.machine import Machine, sentence


@pytest.fixture
def job_id(machine: Machine, saved: tuple[checkpoints.Saved, ...]) -> uuid.UUID:
    """A job of nine items, the first four done, of them one failed."""
    builders.version(machine.sessions, saved[0], serves=True)
    job_id = machine.submit(idempotency_key="[/order] 7", caller="shop")
    with session.transaction(machine.sessions) as transaction:
        claim = leases.claim(transaction, builders.shards(machine.sessions)[0].id, owner="ada", lease_s=60.0)
        leases.finish(transaction, claim, rows.outcomes_of(claim, failing={1}))
    return job_id


def test_jobs_are_listed_and_shown(machine: Machine, job_id: uuid.UUID) -> None:
    listed = machine.run("jobs", "list").out
    assert str(job_id) in listed
    assert "running" in listed
    [one] = machine.run("jobs", "list", "--json").json
    assert (one["id"], one["num_failed"]) == (str(job_id), 1)
    assert machine.run("jobs", "list", "--state", "failed", "--json").json == []
    shown = machine.run("jobs", "show", job_id).out
    for fact in ("4 of 9 done, 1 failed", "[/order] 7", "cats, version cats:1", "No classify worker serves"):
        assert fact in shown
    assert machine.run("jobs", "show", job_id, "--json").json["num_items"] == 9


def test_results_and_errors_are_printed_or_written(machine: Machine, job_id: uuid.UUID) -> None:
    printed = [json.loads(line) for line in machine.run("jobs", "results", job_id).out.splitlines()]
    assert [one["position"] for one in printed] == [0, 1, 2, 3]
    [failed] = machine.run("jobs", "errors", job_id).out.splitlines()
    assert json.loads(failed)["error"]["message"] == "not an image"
    header, *lines = machine.run("jobs", "results", job_id, "--format", "csv").out.splitlines()
    assert (header.split(",")[0], len(lines)) == ("position", 4)
    out = machine.home / "out.parquet"
    assert machine.run("jobs", "results", job_id, "--out", out).err == f"4 outcomes are in {out}.\n"
    assert sentence(machine.run("jobs", "results", job_id, "--format", "parquet"), 2).startswith("Parquet goes to a")


def test_a_job_is_cancelled_once_and_retried(machine: Machine, job_id: uuid.UUID) -> None:
    cancelled = machine.run("jobs", "cancel", job_id)
    assert (cancelled.code, cancelled.out) == (0, f"Job {job_id} is cancelled; 4 of 9 outcomes are kept.\n")
    assert sentence(machine.run("jobs", "cancel", job_id), 1) == f"Job {job_id} is cancelled already."
    assert machine.run("jobs", "retry", job_id).out == f"6 items of job {job_id} wait again.\n"
    assert machine.run("jobs", "show", job_id, "--json").json["state"] == "running"
    assert len(machine.run("jobs", "results", job_id).out.splitlines()) == 3


def test_status_works_while_redis_is_down(machine: Machine, job_id: uuid.UUID) -> None:
    told = machine.run("status", "--json").json
    assert told["broker"].startswith("No Redis answers")
    assert told["serving"] == {"cats": "cats:1"}
    assert [one["num_items"] for one in told["waiting"]] == [5]
    assert (told["num_unfinished"], told["max_waiting_items"]) == (5, 10_000_000)
    shown = machine.run("status")
    assert "5 items without an outcome of 10,000,000 that may be" in " ".join(shown.out.split())
    assert str(job_id) in shown.out
    assert "hunter2" not in shown.out


def test_what_became_of_a_callback_is_shown_without_its_secret(machine: Machine, job_id: uuid.UUID) -> None:
    host = "hooks.example.org"
    with session.transaction(machine.sessions) as transaction:
        callbacks.add(transaction, job_id, f"https://{host}/done?token=hunter2", host=host)
    assert f"callback  {host}, to be told of the end" in machine.run("jobs", "show", job_id).out
    machine.run("jobs", "cancel", job_id)
    for kept in (lambda *given, **how: callbacks.put_off(*given, pause_s=-1.0, **how), callbacks.give_up):
        with session.transaction(machine.sessions) as transaction:
            kept(transaction, callbacks.claim(transaction, host, lease_s=60.0), status=500, error="It answered 500.")
    shown = machine.run("jobs", "show", job_id)
    assert f"callback  {host}, given up after 2 attempts: It answered 500." in shown.out
    told = machine.run("jobs", "show", job_id, "--json")
    assert (told.json["callback"]["state"], told.json["callback"]["last_status"]) == ("given_up", 500)
    assert "hunter2" not in shown.out + told.out
