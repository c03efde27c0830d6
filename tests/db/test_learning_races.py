"""What several processes do to one model's labels and runs at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from db import errors, labels, models, runs, triggers, windows
from db import session as database
from db.session import reading, transaction
from tests.db import builders
from tests.db.builders import LEASE_S, MODEL, OVER_S
from tests.db.test_races import PROCESSES


def add_labels(url, first, num, done):
    """Add labels a few at a time: of pictures of our own, and of pictures that others add as well."""
    sessions = database.connect(url)
    for n in range(first, first + num):
        shared = builders.label(f"shared {n % 10}")
        new = [
            builders.label(n, label=f"class {n % 7}"),
            builders.again(shared, f"{n} of a shared picture", bits=1 << n % 64),
            shared,
        ]
        with transaction(sessions) as session:
            labels.add(session, MODEL, new)
    done.put(num)


def test_processes_that_add_at_once_agree_on_classes_groups_and_splits(sessions, database_url):
    done = PROCESSES.Queue()
    adders = [PROCESSES.Process(target=add_labels, args=(database_url, n * 100, 15, done)) for n in range(3)]
    for adder in adders:
        adder.start()
    assert [done.get(timeout=60) for _ in adders] == [15] * 3
    for adder in adders:
        adder.join(timeout=60)
    with reading(sessions) as session:
        classes = labels.classes(session, MODEL)
        stats = labels.stats(session, MODEL)
        assert session.scalar(select(func.count()).select_from(models.LabelSet)) == 1
    assert sorted(one.number for one in classes) == list(range(len(classes)))
    assert len(classes) == 8
    # 45 pictures of their own and 10 that are shared, the latter in 45 files more
    assert (stats.num_groups, stats.num_images) == (55, 100)
    assert sum(one.num for one in stats.per_class) == 100


def request_runs(url, name, made):
    sessions = database.connect(url)
    ids = []
    for _ in range(10):
        with transaction(sessions) as session:
            run = runs.request(session, builders.new_run(asked_by=name))
        ids += [run.id] if run else []
    made.put(ids)


def test_however_many_ask_one_run_starts(sessions, database_url):
    made = PROCESSES.Queue()
    askers = [PROCESSES.Process(target=request_runs, args=(database_url, f"beat-{n}", made)) for n in range(4)]
    for asker in askers:
        asker.start()
    ids = [run_id for _ in askers for run_id in made.get(timeout=60)]
    for asker in askers:
        asker.join(timeout=60)
    with reading(sessions) as session:
        assert [one.id for one in runs.runs(session, 99)] == ids
        assert len(ids) == 1


@pytest.mark.parametrize("lease_s", [LEASE_S, OVER_S], ids=["waiting", "left by a dead worker"])
def test_one_of_many_claims_a_run(sessions, lease_s):
    with transaction(sessions) as session:
        run_id = runs.request(session, builders.new_run()).id
        if lease_s == OVER_S:
            runs.claim(session, run_id, owner="dead", lease_s=OVER_S)
    start = threading.Barrier(6)

    def claim(name):
        start.wait(timeout=30)
        with transaction(sessions) as session:
            return runs.claim(session, run_id, owner=f"worker-{name}", lease_s=LEASE_S)

    with ThreadPoolExecutor(6) as pool:
        (claimed,) = [run for run in pool.map(claim, range(6)) if run is not None]
    with reading(sessions) as session:
        assert runs.run(session, run_id).lease_owner == claimed.lease_owner


def test_a_run_that_ends_and_is_cancelled_at_once_ends_in_one_way(sessions):
    def end(claimed):
        try:
            with transaction(sessions) as session:
                runs.end(session, claimed.id, claimed.fence, state="succeeded", verdict="hold")
        except errors.RunLost:
            return "lost"
        return "succeeded"

    def cancel(claimed):
        try:
            with transaction(sessions) as session:
                return runs.cancel(session, claimed.id)
        except errors.RunFinished:
            return "finished"

    for _ in range(10):
        with transaction(sessions) as session:
            run_id = runs.request(session, builders.new_run()).id
            claimed = runs.claim(session, run_id, owner="ada", lease_s=LEASE_S)
        with ThreadPoolExecutor(2) as pool:
            ended, cancelled = pool.submit(end, claimed), pool.submit(cancel, claimed)
        assert (ended.result(), cancelled.result()) in {("succeeded", "running"), ("succeeded", "finished")}
        with reading(sessions) as session:
            assert runs.run(session, run_id).state == "succeeded"


def test_two_schedulers_write_one_window_and_no_tick_is_lost(sessions):
    with transaction(sessions) as session:
        version_id = builders.registry.register(session, builders.new_version()).id
    window = windows.NewWindow(
        model=MODEL, version_id=version_id, after_s=1.0, until_s=2.0, num_items=200, min_p=0.5, is_alarm=False
    )

    def tick(_):
        with transaction(sessions) as session:
            triggers.write(session, triggers.NewTick(model=MODEL, is_fired=False, reason="too few labels", facts={}))
            return windows.record(session, window).id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(tick, range(20)))) == 1
    with reading(sessions) as session:
        assert sum(one.num_ticks for one in triggers.ticks(session, MODEL, 99)) == 20
