import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from db import errors, models, registry, runs, snapshots
from db.session import now_s, reading, transaction
from tests.db import builders
from tests.db.builders import LEASE_S, MODEL, OVER_S


def request(session, **columns):
    return runs.request(session, builders.new_run(**columns)).id


def claim(session, run_id, lease_s=LEASE_S, owner="ada"):
    return runs.claim(session, run_id, owner=owner, lease_s=lease_s)


def claimed(session, lease_s=LEASE_S, **columns):
    return claim(session, request(session, **columns), lease_s)


def end(session, run, state="succeeded", **how):
    runs.end(session, run.id, run.fence, state=state, **how)


def test_a_run_is_read_back_as_it_was_asked_for(sessions):
    with transaction(sessions) as session:
        base, champion = (registry.register(session, builders.new_version()) for _ in range(2))
        asked = {"base_id": base.id, "parent_id": champion.id, "causes": ("new_labels", "drift"), "is_forced": True}
        made = runs.request(session, builders.new_run(**asked))
    with reading(sessions) as session:
        assert runs.run(session, made.id) == made
    assert (made.state, made.verdict, made.attempts, made.started_at_s) == ("queued", None, 0, None)
    assert (made.base, made.parent, made.version, made.causes) == ("cats:1", "cats:2", None, ("new_labels", "drift"))
    assert (made.is_forced, made.seed, made.playbook) == (True, 7, {"recipe": {"strategy": "auto"}})


def test_a_model_has_one_run_at_a_time(sessions):
    with transaction(sessions) as session:
        first = request(session)
        assert runs.request(session, builders.new_run()) is None
        request(session, model="dogs")
        run = claim(session, first)
        assert runs.request(session, builders.new_run()) is None
        assert runs.active(session, MODEL).id == first
        end(session, run)
        assert runs.active(session, MODEL) is None
        assert request(session) != first


def test_the_database_itself_allows_a_model_one_run(sessions):
    with transaction(sessions) as session:
        request(session)
    plain = {"model": MODEL, "reason": "", "asked_by": "", "seed": 0, "playbook": {}, "causes": []}
    with pytest.raises(IntegrityError), transaction(sessions) as session:
        session.add(models.Run(**plain, is_forced=False))


def test_a_claim_raises_the_fence_and_keeps_others_out(sessions):
    with transaction(sessions) as session:
        run_id = request(session)
        first = claim(session, run_id)
        assert (first.state, first.fence, first.attempts, first.lease_owner) == ("running", 1, 1, "ada")
        assert first.started_at_s is not None
        assert claim(session, run_id, owner="bob") is None
        assert runs.extend(session, run_id, first.fence, lease_s=OVER_S).is_held
        second = claim(session, run_id, owner="bob")
        assert (second.fence, second.attempts, second.lease_owner) == (2, 2, "bob")
        assert second.started_at_s == first.started_at_s
        assert claim(session, 99) is None


def test_a_worker_that_lost_its_lease_can_write_nothing(sessions):
    with transaction(sessions) as session:
        lost = claimed(session, OVER_S)
        claim(session, lost.id, owner="bob")
        assert not runs.extend(session, lost.id, lost.fence, lease_s=LEASE_S).is_held
        for write in (
            lambda: runs.begin_step(session, lost.id, lost.fence, "train"),
            lambda: runs.finish_step(session, lost.id, lost.fence, "train", {}),
            lambda: runs.note(session, lost.id, lost.fence, progress={}),
            lambda: runs.note(session, lost.id, lost.fence),
            lambda: end(session, lost),
        ):
            with pytest.raises(errors.RunLost):
                write()
        runs.release(session, lost.id, lost.fence)
        run = runs.run(session, lost.id)
        assert (run.state, run.lease_owner, run.step, run.progress) == ("running", "bob", None, None)
        assert runs.steps(session, lost.id) == {}


def test_a_step_that_was_done_is_not_done_again(sessions):
    with transaction(sessions) as session:
        run = claimed(session, OVER_S)
        runs.begin_step(session, run.id, run.fence, "snapshot")
        runs.finish_step(session, run.id, run.fence, "snapshot", {"digest": "5f"})
        runs.begin_step(session, run.id, run.fence, "train")
        before = runs.steps(session, run.id)
        assert [*before] == ["snapshot", "train"]
        assert before["train"].finished_at_s is None
        heir = claim(session, run.id, owner="bob")
        assert heir.step == "train"
        for name in ("snapshot", "train"):
            runs.begin_step(session, heir.id, heir.fence, name)
        after = runs.steps(session, run.id)
        assert after["snapshot"] == before["snapshot"]
        assert after["snapshot"].result == {"digest": "5f"}
        assert after["train"].started_at_s >= before["train"].started_at_s


def test_what_is_noted_stays_and_what_is_not_is_left_alone(sessions):
    with transaction(sessions) as session:
        run = claimed(session)
        version = registry.register(session, builders.new_version())
        runs.note(session, run.id, run.fence, progress={"epoch": 3}, plan={"strategy": "head"})
        runs.note(session, run.id, run.fence, version_id=version.id, report="runs/1.html")
        runs.note(session, run.id, run.fence)
        noted = runs.run(session, run.id)
    assert (noted.progress, noted.plan, noted.report) == ({"epoch": 3}, {"strategy": "head"}, "runs/1.html")
    assert noted.version == "cats:1"


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("succeeded", {"verdict": "promote"}),
        ("succeeded", {"verdict": "not_recommended"}),
        ("failed", {"error_kind": "TrainingDiverged", "error_message": "The loss is not finite."}),
        ("cancelled", {}),
    ],
)
def test_an_end_is_final_and_says_why(sessions, state, told):
    with transaction(sessions) as session:
        run = claimed(session)
        end(session, run, state, **told)
        ended = runs.run(session, run.id)
        assert (ended.state, ended.lease_owner, ended.lease_until_s) == (state, None, None)
        assert ended.finished_at_s is not None
        assert {"verdict": ended.verdict, "error_kind": ended.error_kind, "error_message": ended.error_message} == {
            "verdict": None,
            "error_kind": None,
            "error_message": None,
        } | told
        assert claim(session, run.id) is None
        assert runs.last_ended(session, MODEL) == ended
        with pytest.raises(errors.RunLost):
            end(session, run, "failed")
        with pytest.raises(errors.RunFinished, match=state):
            runs.cancel(session, run.id)


def test_a_verdict_or_state_that_nobody_knows_is_refused(sessions):
    for told in ({"verdict": "splendid"}, {"state": "asleep"}):
        with pytest.raises(IntegrityError), transaction(sessions) as session:
            end(session, claimed(session), **told)


def test_a_run_that_is_given_back_waits_again_and_the_attempt_is_forgiven(sessions):
    with transaction(sessions) as session:
        run = claimed(session)
        runs.mark_rung(session, [run.id])
        runs.release(session, run.id, run.fence)
        waiting = runs.run(session, run.id)
        assert (waiting.state, waiting.attempts, waiting.lease_owner) == ("queued", 0, None)
        assert runs.due(session, older_than_s=60) == [run.id]
        assert claim(session, run.id).fence == run.fence + 1


def test_a_run_nobody_works_on_is_cancelled_at_once(sessions):
    with transaction(sessions) as session:
        waiting = request(session)
        assert runs.cancel(session, waiting) == "cancelled"
        left = claimed(session, OVER_S)
        assert runs.cancel(session, left.id) == "cancelled"
        assert not runs.extend(session, left.id, left.fence, lease_s=LEASE_S).is_held
        assert claim(session, waiting) is None
        with pytest.raises(errors.UnknownRun):
            runs.cancel(session, 99)


def test_whoever_works_on_a_run_is_told_that_it_is_to_be_cancelled(sessions):
    with transaction(sessions) as session:
        run = claimed(session)
        assert runs.extend(session, run.id, run.fence, lease_s=LEASE_S) == runs.Held(is_held=True, is_cancelled=False)
        for _ in range(2):
            assert runs.cancel(session, run.id) == "running"
        assert runs.extend(session, run.id, run.fence, lease_s=LEASE_S) == runs.Held(is_held=True, is_cancelled=True)
        end(session, run, "cancelled")
        assert runs.run(session, run.id).state == "cancelled"


def test_a_bell_is_due_once_it_is_missing_or_old(sessions):
    with transaction(sessions) as session:
        waiting, working, left, ended = (request(session, model=f"{n}") for n in range(4))
        claim(session, working)
        claim(session, left, OVER_S)
        end(session, claim(session, ended))
        assert runs.due(session, older_than_s=60) == [waiting, left]
        runs.mark_rung(session, [waiting])
        assert runs.due(session, older_than_s=60) == [left]
        assert runs.due(session, older_than_s=-1) == [waiting, left]
        session.execute(update(models.Run).values(rung_at_s=now_s() - 90))
        assert runs.due(session, older_than_s=60) == [waiting, left]


def test_a_run_that_kills_its_workers_is_given_up(sessions):
    with transaction(sessions) as session:
        run = claimed(session, OVER_S)
        runs.begin_step(session, run.id, run.fence, "train")
        other = claimed(session, OVER_S, model="dogs")
        held = claimed(session, model="bees")
        claim(session, run.id, OVER_S)
        assert runs.give_up(session, 2) == [run.id]
        given_up = runs.run(session, run.id)
        assert (given_up.state, given_up.error_kind) == ("failed", "killed_worker")
        assert given_up.error_message == "2 workers died in step train"
        assert given_up.finished_at_s is not None
        assert {runs.run(session, one.id).state for one in (other, held)} == {"running"}


def test_a_run_whose_worker_died_before_it_was_cancelled_is_ended_by_the_sweep(sessions):
    with transaction(sessions) as session:
        run = claimed(session)
        runs.cancel(session, run.id)
        assert runs.give_up(session, 5) == []
        runs.extend(session, run.id, run.fence, lease_s=OVER_S)
        assert runs.give_up(session, 5) == [run.id]
        ended = runs.run(session, run.id)
        assert (ended.state, ended.error_kind, ended.error_message) == ("cancelled", None, None)


def test_runs_are_listed_newest_first(sessions):
    with transaction(sessions) as session:
        cats, dogs = request(session), request(session, model="dogs")
        end(session, claim(session, cats), "failed")
        again = request(session)
        assert [one.id for one in runs.runs(session, 9)] == [again, dogs, cats]
        assert [one.id for one in runs.runs(session, 1)] == [again]
        assert [one.id for one in runs.runs(session, 9, model=MODEL)] == [again, cats]
        assert [one.id for one in runs.runs(session, 9, model=MODEL, state="failed")] == [cats]
        assert runs.last_ended(session, "dogs") is None
        with pytest.raises(errors.UnknownRun):
            runs.run(session, 99)


def test_runs_that_have_ended_are_told_from_those_that_have_not(sessions):
    with transaction(sessions) as session:
        over = claimed(session)
        end(session, over, "failed")
        waiting, running = request(session), claimed(session, model="dogs")
        assert runs.ended(session, [running.id, waiting, over.id, 99]) == [over.id]
        assert runs.ended(session, []) == []


def test_labels_count_as_seen_once_a_run_that_learnt_from_them_succeeded(sessions):
    with transaction(sessions) as session:
        assert runs.last_label_seen(session, MODEL) == 0
        for last_label_id, state in ((40, "succeeded"), (90, "failed"), (95, "cancelled")):
            taken = snapshots.record(session, builders.new_snapshot(digest=state, last_label_id=last_label_id))
            run = claimed(session)
            runs.note(session, run.id, run.fence, snapshot_id=taken.id)
            end(session, run, state)
        assert runs.last_label_seen(session, MODEL) == 40
        assert runs.last_label_seen(session, "dogs") == 0
