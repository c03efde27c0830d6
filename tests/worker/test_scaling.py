"""How many workers the backlog asks for: by hand, by the command, and by the autoscaler's query on the same ledger."""

import math
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from db import drains, leases, loads, pauses, session, workers
from db.loads import Load
from tests.db import builders as rows
from tests.worker.machine import Machine, sentence
from worker import scaling
from worker.scaling import Target

SCALED = Path(__file__).parents[2] / "deploy" / "keda" / "scaledobject.yaml"


def load(**columns: object) -> Load:
    usual = {"model": "cats", "num_waiting": 0, "num_held": 0, "num_paused": 0, "num_workers": 1, "images_per_s": 10.0}
    return Load(**(usual | columns))


@pytest.mark.parametrize(
    ("found", "num_workers", "target", "advised", "is_enough"),
    [
        ([], 0, {}, 1, False),
        ([], 1, {}, 1, True),
        ([load(num_waiting=3000)], 1, {}, 3, False),
        ([load(num_waiting=3001)], 4, {}, 4, True),
        ([load(num_waiting=1500, num_held=1500)], 3, {}, 3, True),
        ([load(num_paused=9_000_000)], 1, {}, 1, True),
        ([load(num_waiting=3000), load(model="dogs", num_waiting=300, images_per_s=1.0)], 1, {}, 6, False),
        ([load(num_waiting=10**9)], 1, {"most": 8}, 8, False),
        ([load()], 0, {"fewest": 0}, 0, True),
        ([load(num_waiting=1, images_per_s=None, num_workers=0)], 0, {"fewest": 0}, 1, False),
        ([load(num_waiting=10**6, images_per_s=None)], 5, {}, 5, True),
        ([load(num_waiting=1000, images_per_s=None)], 1, {"pace": 1.0}, 10, False),
    ],
)
def test_the_advice_is_what_drains_the_backlog_in_time(
    found: list[Load], num_workers: int, target: dict[str, float], advised: int, is_enough: bool
) -> None:
    wanted = Target(**({"drain_s": 100.0, "fewest": 1, "most": 100} | target))
    advice = scaling.advise(found, num_workers, wanted)
    assert (advice.advised, advice.is_enough) == (advised, is_enough)


def fill(transaction: Session) -> None:
    """Two models with work in every state, and workers that have told their pace, or drain, or have not."""
    for model, name, parent_pid, pace in (("cats", "one", 1, 40.0), ("cats", "two", 2, 60.0), ("cats", "old", 3, 1.0)):
        worker = workers.Worker(
            name=name, host="north", pid=parent_pid + 10, parent_pid=parent_pid, role="classify",
            models=(model, "dogs"), device="cpu", state="ready", images_per_s={model: pace},
        )  # fmt: skip
        workers.beat(transaction, worker)
    drains.ask(transaction, [("north", 3)], who="ada", reason="")
    rows.submit(transaction, 1000, shard_size=100)
    rows.submit(transaction, 500, shard_size=100, priority="interactive")
    rows.submit(transaction, 130, shard_size=100, model="dogs")
    rows.submit(transaction, 70, shard_size=100, model="hens", priority="interactive")
    rows.receive(transaction, rows.job(10), num=5)  # not whole, so nobody may begin
    claims = rows.fill(transaction, 100)
    leases.finish(transaction, claims[0], rows.outcomes_of(claims[0]))
    rows.fill(transaction, 100)
    pauses.pause(transaction, rows.MODEL, ["bulk"], who="ada", reason="")


def test_loads_tell_what_waits_what_is_held_and_what_is_paused(sessions: sessionmaker[Session]) -> None:
    with session.transaction(sessions) as transaction:
        fill(transaction)
        found = {one.model: one for one in loads.loads(transaction, workers.list_alive(transaction, within_s=30.0))}
    assert found["cats"] == load(
        num_waiting=300, num_held=100, num_paused=1000, num_workers=2, images_per_s=pytest.approx(50.0)
    )
    assert (found["dogs"].num_waiting, found["dogs"].num_workers, found["dogs"].images_per_s) == (130, 2, None)
    assert (found["hens"].num_waiting, found["hens"].num_workers) == (70, 0)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)  # no autoscaler reads a file
def test_the_autoscalers_query_gives_what_the_advice_rests_on(sessions: sessionmaker[Session]) -> None:
    authentication, scaled = yaml.safe_load_all(SCALED.read_text())
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    query = trigger["metadata"]["query"]
    target = Target(drain_s=float(trigger["metadata"]["targetQueryValue"]), fewest=1, most=16, pace=20.0)
    with session.transaction(sessions) as transaction:
        assert transaction.execute(text(query)).scalar_one() == 0
        fill(transaction)
        advice = scaling.advise(loads.loads(transaction, workers.list_alive(transaction, within_s=30.0)), 2, target)
        assert transaction.execute(text(query)).scalar_one() == math.ceil(advice.work_s)
    assert advice.work_s == pytest.approx(400 / 50 + 130 / 20 + 70 / 20)


def test_the_command_advises_and_exits_1_where_more_are_needed(machine: Machine) -> None:
    assert machine.run("scale", "--min", "0").code == 0
    with session.transaction(machine.sessions) as transaction:
        fill(transaction)
    told = machine.run("scale", "--target-s", "5", "--pace", "20", "--json")
    assert (told.code, told.json["advised"], told.json["num_workers"]) == (1, 4, 2)
    said = machine.run("scale", "--target-s", "1000", "--pace", "20")
    assert said.code == 0
    assert "is enough" in said.out
    assert "larger --min" in sentence(machine.run("scale", "--min", "9", "--max", "8"), 2)
