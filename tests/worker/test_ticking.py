"""Ticks on a real ledger: one run however many schedulers, and a reason for every decision."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import labels, runs, session, triggers, windows
from tests.worker.schools import MODEL, QUICK, School, open_school
from worker import ticking


def playbook_of_sixty() -> str:
    return QUICK + "[trigger]\nmin_new_labels = 60\nmin_new_class_labels = 0\ncooldown_s = 0\n"


@pytest.fixture
def school(tmp_path: Path, sessions: sessionmaker[Session]) -> Iterator[School]:
    """A model that is retrained as soon as it has sixty new labels."""
    with open_school(tmp_path / "mill", sessions, playbook=playbook_of_sixty()) as opened:
        yield opened


def ticks(school: School) -> list[triggers.Tick]:
    with session.reading(school.sessions) as reading:
        return triggers.ticks(reading, MODEL, limit=50)


def tick(school: School) -> list[int]:
    """Tick once; give the runs that were rung for."""
    rung: list[int] = []
    ticking.tick(school.sessions, school.settings, rung.append)
    return rung


def test_a_model_without_labels_leaves_no_trace(school: School) -> None:
    assert tick(school) == []
    assert ticks(school) == []


def test_a_tick_says_what_is_missing_once_and_fires_when_it_is_there(school: School) -> None:
    school.teach(("cat", "dog"), 20)
    assert [tick(school) for _ in range(3)] == [[], [], []]
    [skipped] = ticks(school)
    assert (skipped.is_fired, skipped.num_ticks) == (False, 3)
    assert "40 of 60 new labels" in skipped.reason
    school.teach(("cat", "dog"), 10, first=20)
    [run_id] = tick(school)
    fired = ticks(school)[0]
    assert (fired.is_fired, fired.run_id) == (True, run_id)
    run = school.read(run_id)
    assert (run.state, run.asked_by, run.causes) == ("queued", "trigger", ("new_labels",))
    assert tick(school) == []
    assert f"run {run_id} is not over yet" in ticks(school)[0].reason


def test_ten_schedulers_start_one_run(school: School) -> None:
    school.teach(("cat", "dog"), 40)
    with ThreadPoolExecutor(10) as crowd:
        rung = [run for found in crowd.map(lambda _: tick(school), range(10)) for run in found]
    with session.reading(school.sessions) as reading:
        assert len(runs.runs(reading, 50, model=MODEL)) == 1
    assert len(rung) == 1
    assert sum(one.is_fired for one in ticks(school)) == 1


def test_labels_that_a_run_has_learned_from_do_not_fire_again(school: School) -> None:
    school.teach(("cat", "dog"), 40)
    [run_id] = tick(school)
    school.carry_out(run_id)
    assert tick(school) == []
    with session.reading(school.sessions) as reading:
        facts = ticking.facts_of(reading, ticking.playbook.read(school.settings.playbook, MODEL))
    assert (facts.num_new, facts.num_known) == (0, 80)


def test_a_playbook_that_makes_no_sense_is_the_reason_and_harms_no_other_model(school: School) -> None:
    school.teach(("cat", "dog"), 40)
    Path(school.settings.playbook).write_text("[trigger]\nmin_new_labels = -1")
    assert tick(school) == []
    assert "makes no sense" in ticks(school)[0].reason


def test_a_run_whose_bell_was_lost_is_rung_for_and_one_that_kills_its_workers_is_given_up(school: School) -> None:
    school.teach(("cat", "dog"), 40)
    asked = school.ask()
    rung: list[int] = []
    ticking.sweep_runs(school.sessions, rung.append)
    assert rung == [asked.id]
    for _ in range(ticking.MAX_ATTEMPTS):
        school.claim(asked.id, lease_s=-1.0)
    ticking.sweep_runs(school.sessions, rung.append)
    assert (school.read(asked.id).state, school.read(asked.id).error_kind) == ("failed", "killed_worker")


def test_drift_alarms_count_for_the_version_that_serves_alone(school: School) -> None:
    school.teach(("cat", "dog"), 40)
    run = school.learn(strategy="head")
    with session.transaction(school.sessions) as transaction:
        for number, version_id in enumerate((run.version_id, run.version_id, run.base_id)):
            windows.record(
                transaction,
                windows.NewWindow(
                    model=MODEL, version_id=version_id, after_s=number, until_s=number + 1, num_items=200, min_p=0.001,
                    is_alarm=True,
                ),
            )  # fmt: skip
        known = ticking.playbook.read(school.settings.playbook, MODEL)
        assert ticking.facts_of(transaction, known).num_alarms == 0
        windows.record(
            transaction,
            windows.NewWindow(
                model=MODEL, version_id=run.version_id, after_s=9, until_s=10, num_items=200, min_p=0.001, is_alarm=True
            ),
        )
        assert ticking.facts_of(transaction, known).num_alarms == 1
        assert labels.last(transaction, MODEL) > 0
