"""Runs, plans, triggers and the playbook from the command line, without a broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from db import session, triggers
from tests.worker.machine import Machine, sentence
from tests.worker.schools import MODEL, School, open_school

PETS = ("cat", "dog", "hen")


@pytest.fixture
def school(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[School]:
    """A model with thirty labelled pictures of each class, whose ledger is the machine's."""
    with open_school(tmp_path / "school", machine.sessions) as opened:
        monkeypatch.setenv("IMAGEMILL_ALLOWED_ROOTS", str(opened.folder))
        monkeypatch.setenv("IMAGEMILL_PLAYBOOK", str(opened.settings.playbook))
        monkeypatch.setenv("IMAGEMILL_STORE", str(opened.settings.store))
        monkeypatch.setenv("COLUMNS", "200")
        opened.teach(PETS, 30)
        yield opened


def test_a_run_that_has_ended_is_shown_with_its_steps_its_verdict_and_its_page(
    machine: Machine, school: School
) -> None:
    run = school.learn(strategy="head")
    assert (run.state, run.verdict) == ("succeeded", "promote"), run.error_message
    shown = machine.run("runs", "show", run.id)
    assert shown.code == 0, shown
    for fact in (f"Run {run.id} of {MODEL} succeeded", "ada: a test", "evaluate", "integrity", f"{MODEL}:1"):
        assert fact in shown.out
    told = machine.run("runs", "show", run.id, "--json").json
    assert [step["name"] for step in told["steps"]] == ["snapshot", "plan", "train", "evaluate", "gate", "report"]
    assert (told["run"]["id"], told["gate"]["verdict"]) == (run.id, "promote")
    assert machine.run("runs", "report", run.id, "--no-open").out.strip() == run.report
    assert machine.run("runs", "report", run.id, "--json").json == {"run": run.id, "report": run.report}
    assert "promote" in machine.run("runs", "list", "--model", MODEL).out


def test_a_run_is_asked_for_once_waits_for_redis_and_is_cancelled(machine: Machine, school: School) -> None:
    asked = machine.run("retrain", "--model", MODEL, "--reason", "new lamps")
    assert asked.code == 0, asked
    assert "Run 1 of pets is queued. Follow it with: imagemill runs show 1" in asked.out
    assert "Redis does not answer" in asked.err
    assert "Run 1 of pets is not over yet" in machine.run("retrain", "--model", MODEL).out
    [listed] = machine.run("runs", "list", "--json").json
    assert (listed["id"], listed["state"], listed["reason"]) == (1, "queued", "new lamps")
    assert "no report yet" in sentence(machine.run("runs", "report", 1), 2)
    assert machine.run("runs", "cancel", 1).out == "Run 1 is cancelled.\n"
    assert sentence(machine.run("runs", "cancel", 1), 1) == "Run 1 is cancelled already."
    assert "cancelled" in machine.run("runs", "show", 1).out


@pytest.mark.parametrize("verb", ["show", "cancel", "report"])
def test_a_run_that_is_unknown_is_named(machine: Machine, verb: str) -> None:
    assert "7" in sentence(machine.run("runs", verb, 7), 2)


def test_a_plan_says_what_it_would_do_and_records_nothing(machine: Machine, school: School) -> None:
    planned = machine.run("plan", "--model", MODEL)
    assert planned.code == 0, planned
    assert "The lecture says" in planned.out
    assert machine.run("runs", "list", "--json").json == []


def test_ticks_are_listed_and_the_playbook_is_shown_as_it_holds(machine: Machine, school: School) -> None:
    with session.transaction(school.sessions) as transaction:
        reason = "8 of 60 new labels"
        triggers.write(transaction, triggers.NewTick(model=MODEL, is_fired=False, reason=reason, facts={}))
    assert "8 of 60 new labels" in machine.run("triggers", "list").out
    assert machine.run("playbook", "--model", MODEL, "--json").json["recipe"]["epochs"] == 2
    assert "epochs = 2" in machine.run("playbook", "--model", MODEL).out
