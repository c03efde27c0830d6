import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from sqlalchemy import update

from db import errors, gates, jobs, models, registry
from db.session import reading, transaction
from tests.db import builders


def three_versions(session):
    return [registry.register(session, builders.new_version()).id for _ in range(3)]


def promote(session, version_id, seen_epoch):
    return registry.promote(session, builders.MODEL, version_id, seen_epoch=seen_epoch, who="ada", reason="better")


def serving_number(session):
    return registry.serving(session, builders.MODEL).version.number


def test_versions_are_numbered_from_one_within_their_model(sessions):
    with transaction(sessions) as session:
        names = [registry.register(session, builders.new_version(model)).name for model in ("a", "b", "a")]
        assert names == ["a:1", "b:1", "a:2"]
        assert [version.name for version in registry.versions(session)] == ["a:2", "a:1", "b:1"]
        assert registry.models(session) == ["a", "b"]


def test_concurrent_registrations_take_different_numbers(sessions):
    def register(_):
        with transaction(sessions) as session:
            return registry.register(session, builders.new_version()).number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(register, range(16))) == list(range(1, 17))


def test_a_version_is_found_by_its_name_and_by_its_model_once_it_serves(sessions):
    with transaction(sessions) as session:
        first, second, _ = three_versions(session)
        promote(session, second, 0)
        assert registry.version(session, "cats:1").id == first
        assert registry.version(session, "cats").id == second


@pytest.mark.parametrize(
    ("name", "error"),
    [
        pytest.param("cats:9", errors.UnknownVersion, id="no such number"),
        pytest.param("cats:x", errors.UnknownVersion, id="not a number"),
        pytest.param("dogs:1", errors.UnknownVersion, id="no such model's version"),
        pytest.param("dogs", errors.UnknownModel, id="no such model"),
        pytest.param("cats", errors.UnknownModel, id="nothing serves yet"),
    ],
)
def test_an_unknown_name_is_refused_as_what_it_is(sessions, name, error):
    with transaction(sessions) as session:
        three_versions(session)
        with pytest.raises(error):
            registry.version(session, name)


def test_a_promotion_on_a_stale_epoch_is_refused(sessions):
    with transaction(sessions) as session:
        first, second, third = three_versions(session)
        assert promote(session, first, 0) == 1
        assert promote(session, second, 1) == 2
        for stale in (0, 1):
            with pytest.raises(errors.ServingChanged):
                promote(session, third, stale)
        assert serving_number(session) == 2


def test_a_version_of_another_model_cannot_be_promoted(sessions):
    with transaction(sessions) as session:
        other = registry.register(session, builders.new_version("dogs"))
        with pytest.raises(errors.UnknownVersion):
            promote(session, other.id, 0)


def test_two_rollbacks_in_a_row_go_further_back(sessions):
    with transaction(sessions) as session:
        for epoch, version_id in enumerate(three_versions(session)):
            promote(session, version_id, epoch)
        numbers = []
        for _ in range(2):
            rolled = registry.rollback(session, builders.MODEL, who="ada", reason="worse")
            numbers.append(rolled.version.number)
        assert numbers == [2, 1]
        with pytest.raises(errors.NothingToRollBack):
            registry.rollback(session, builders.MODEL, who="ada", reason="worse")


def test_a_rollback_after_a_new_promotion_skips_what_was_rolled_back(sessions):
    with transaction(sessions) as session:
        first, second, third = three_versions(session)
        promote(session, first, 0)
        promote(session, second, 1)
        registry.rollback(session, builders.MODEL, who="ada", reason="worse")
        promote(session, third, 3)
        registry.rollback(session, builders.MODEL, who="ada", reason="worse")
        assert serving_number(session) == 1


def test_the_history_names_who_moved_what_from_where_and_why(sessions):
    with transaction(sessions) as session:
        first, second, _ = three_versions(session)
        promote(session, first, 0)
        promote(session, second, 1)
        registry.rollback(session, builders.MODEL, who="bob", reason="worse")
        told = [(p.kind, p.version, p.previous, p.who, p.epoch) for p in registry.history(session, builders.MODEL)]
    assert told == [
        ("promote", "cats:1", None, "ada", 1),
        ("promote", "cats:2", "cats:1", "ada", 2),
        ("rollback", "cats:1", "cats:2", "bob", 3),
    ]


def test_the_history_tells_what_was_forced_and_the_verdict_it_rests_on(sessions):
    with transaction(sessions) as session:
        first, second, _ = three_versions(session)
        promote(session, first, 0)
        gate = gates.record(
            session,
            gates.NewGate(
                run_id=None,
                challenger_id=second,
                champion_id=first,
                test_digest="5f",
                verdict="underpowered",
                reason="100 test images are too few.",
                numbers={},
            ),
        )
        forced = {"who": "ada", "reason": "I looked", "is_forced": True, "gate_id": gate.id}
        registry.promote(session, builders.MODEL, second, seen_epoch=1, **forced)
        told = [(p.version, p.is_forced, p.gate_id) for p in registry.history(session, builders.MODEL)]
    assert told == [("cats:1", False, None), ("cats:2", True, gate.id)]


def test_the_ledger_knows_what_was_live_at_any_time(sessions):
    with transaction(sessions) as session:
        first, second, _ = three_versions(session)
        promote(session, first, 0)
        promote(session, second, 1)
        registry.rollback(session, builders.MODEL, who="ada", reason="worse")
        for epoch, at_s in ((1, 100.0), (2, 200.0), (3, 300.0)):
            moved = update(models.Promotion).where(models.Promotion.epoch == epoch)
            session.execute(moved.values(at_s=at_s))
        live = [registry.live_at(session, builders.MODEL, at_s) for at_s in (99.9, 100.0, 199.9, 250.0, 1e12)]
        assert [version and version.number for version in live] == [None, 1, 1, 2, 1]
        assert registry.live_at(session, "dogs", 1e12) is None


def test_fifty_concurrent_promotions_leave_a_linear_history(sessions):
    with transaction(sessions) as session:
        ids = three_versions(session)
        promote(session, ids[0], 0)
    start = threading.Barrier(10)

    def promote_five(worker):
        start.wait(timeout=30)
        num_done = 0
        while num_done < 5:
            with reading(sessions) as session:
                seen = registry.serving(session, builders.MODEL).epoch
            try:
                with transaction(sessions) as session:
                    promote(session, ids[(worker + num_done) % 3], seen)
            except errors.ServingChanged:
                continue
            num_done += 1

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(promote_five, range(10)))
    with reading(sessions) as session:
        history = registry.history(session, builders.MODEL)
        assert registry.serving(session, builders.MODEL).epoch == 51
    assert [promotion.epoch for promotion in history] == list(range(1, 52))
    assert all(now.previous == before.version for before, now in pairwise(history))


def test_only_versions_of_unfinished_jobs_are_open(sessions):
    with transaction(sessions) as session:
        first, second, _ = three_versions(session)
        builders.submit(session, version_id=first)
        ended = builders.submit(session, version_id=second)
        builders.submit(session)
        jobs.cancel(session, ended)
        assert registry.open_versions(session, builders.MODEL) == {first}
