"""Pause and drain by the command line, and what those who wait are told."""

import pytest

from db import drains, pauses, registry, runs, session, workers
from tests.db import builders as rows
from tests.worker import builders
from tests.worker.machine import Machine, sentence
from worker import intake, pausing, ticking


@pytest.fixture
def served(machine: Machine) -> Machine:
    """A machine with a model."""
    with session.transaction(machine.sessions) as transaction:
        version = registry.register(transaction, rows.new_version(builders.MODEL))
        registry.promote(transaction, builders.MODEL, version.id, seen_epoch=0, who="ada", reason="")
    return machine


def beat(machine: Machine, name: str, *, parent_pid: int | None, host: str = "north", role: str = "classify") -> None:
    with session.transaction(machine.sessions) as transaction:
        worker = workers.Worker(
            name=name, host=host, pid=9, parent_pid=parent_pid, role=role, models=(builders.MODEL,), device="cpu",
            state="ready",
        )  # fmt: skip
        workers.beat(transaction, worker)


def note(machine: Machine, job: object) -> str | None:
    with session.reading(machine.sessions) as reading:
        return intake.job_status(reading, job).note


def test_a_pause_is_told_to_who_waits_in_status_and_in_a_ticks_reason(served: Machine) -> None:
    job = served.submit()
    assert "Jobs are accepted and wait" in served.run("pause", builders.MODEL, "--reason", "wrong labels.").out
    for said in (note(served, job), served.run("jobs", "show", job).out):
        assert "Bulk work of model 'cats' is paused by" in said
        assert "wrong labels. Resume with: imagemill resume cats" in said
    with session.reading(served.sessions) as reading:
        held = pauses.pauses(reading, builders.MODEL)
    assert pausing.why(held, "learning").startswith("Learning of model 'cats' is paused by")
    assert served.run("resume", builders.MODEL, "--learning", "--json").json["resumed"][0]["work"] == "learning"
    assert "goes on" in served.run("resume", builders.MODEL).out
    assert "is paused" not in str(note(served, job))
    assert "Nothing was paused" in served.run("resume", builders.MODEL).out


def test_a_tick_fires_nothing_while_learning_is_paused(served: Machine) -> None:
    served.run("pause", "--all", "--learning", "--reason", "an audit")
    with session.reading(served.sessions) as reading:
        facts = ticking.facts_of(reading, ticking.playbook.read("", builders.MODEL))
    assert "Learning of every model is paused" in facts.paused
    decision = ticking.decide(ticking.playbook.read("", builders.MODEL).trigger, facts)
    assert (decision.is_fired, decision.reason) == (False, facts.paused)


def test_what_all_models_pause_holds_back_outlasts_a_models_resume(served: Machine) -> None:
    served.run("pause", "--all", "--priority", "bulk", "--reason", "the disk is full")
    job = served.submit()
    assert "imagemill resume --all" in note(served, job)
    told = served.run("resume", builders.MODEL)
    assert told.code == 1
    assert "the disk is full" in told.out
    assert served.run("resume", "--all").code == 0


def test_a_model_that_is_not_there_is_not_paused(served: Machine) -> None:
    assert "'cat'; there are cats, default" in sentence(served.run("pause", "cat", "--reason", "a typo"), 2)
    with pytest.raises(SystemExit):
        served.run("pause", builders.MODEL)  # somebody will ask why


def test_workers_are_drained_by_name_by_host_or_all_and_come_back(served: Machine) -> None:
    job = served.submit()
    for name, host, parent_pid in (("a", "north", 1), ("b", "north", 2), ("c", "south", 1)):
        beat(served, name, host=host, parent_pid=parent_pid)
    assert served.run("drain", "a", "--reason", "a deploy", "--json").json["asked"] == ["a"]
    assert "asked to drain by" in served.run("status").out
    assert served.run("drain", "--host", "north", "--json").json["asked"] == ["a", "b"]
    assert note(served, job) is None
    told = served.run("drain", "--all", "--wait", "--timeout", "0", "--json")
    assert (told.code, told.json["busy"]) == (1, ["a", "b", "c"])
    assert "takes no more work" in note(served, job)
    with session.transaction(served.sessions) as transaction:
        for place in (("north", 1), ("north", 2), ("south", 1)):
            drains.note_drained(transaction, place)
    assert served.run("drain", "--all", "--wait").code == 0
    assert served.run("undrain", "--all", "--json").json["asked"] == ["a", "b", "c"]
    assert note(served, job) is None


def test_a_worker_that_cannot_be_drained_is_told_apart(served: Machine) -> None:
    beat(served, "old", parent_pid=None)
    told = served.run("drain", "--all", "--json")
    assert (told.code, told.json["cannot_drain"]) == (1, ["old"])


def test_it_must_be_said_which_worker(served: Machine) -> None:
    assert "Say which" in sentence(served.run("drain"), 2)
    assert "Say which" in sentence(served.run("undrain", "a", "--all"), 2)
    assert "imagemill status" in sentence(served.run("drain", "nobody"), 2)
    beat(served, "a", parent_pid=1, role="intake")
    assert "imagemill status" in sentence(served.run("drain", "--all", "--role", "learn"), 2)


def test_a_run_that_is_asked_for_while_learning_is_paused_waits(served: Machine) -> None:
    served.run("pause", builders.MODEL, "--learning", "--reason", "an audit")
    with session.transaction(served.sessions) as transaction:
        run = runs.request(transaction, rows.new_run(builders.MODEL))
        assert runs.claim(transaction, run.id, owner="ada", lease_s=60.0) is None
