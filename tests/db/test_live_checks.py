import uuid

import pytest

from db import live_checks, registry
from db.session import transaction
from tests.db import builders
from tests.db.builders import MODEL


def new_check(session, epoch=2, model=MODEL):
    before, now = (registry.register(session, builders.new_version(model)).id for _ in range(2))
    return live_checks.NewCheck(model=model, promotion_epoch=epoch, version_id=now, previous_version_id=before)


def test_a_promotion_is_watched_once(sessions):
    with transaction(sessions) as session:
        new = new_check(session)
        begun = live_checks.begin(session, new)
        assert live_checks.begin(session, new) is None
        assert live_checks.watching(session) == live_checks.watching(session, MODEL) == [begun]
        assert live_checks.watching(session, "dogs") == []
        assert (begun.state, begun.numbers, begun.replay_job_id, begun.ended_at_s) == ("watching", {}, None, None)


@pytest.mark.parametrize("state", ["passed", "rolled_back"])
def test_a_watch_ends_once_with_what_was_seen(sessions, state):
    with transaction(sessions) as session:
        begun = live_checks.begin(session, new_check(session))
        job_id = uuid.uuid4()
        assert live_checks.note(session, begun.id, replay_job_id=job_id)
        assert live_checks.note(session, begun.id, numbers={"num": 5})
        assert live_checks.end(session, begun.id, state=state, numbers={"num": 200}, reason="as before")
        assert not live_checks.end(session, begun.id, state="passed", numbers={}, reason="too late")
        assert not live_checks.note(session, begun.id, numbers={})
        assert live_checks.watching(session) == []
        ended = live_checks.latest(session, MODEL)
    assert (ended.id, ended.state, ended.numbers, ended.reason) == (begun.id, state, {"num": 200}, "as before")
    assert ended.replay_job_id == job_id
    assert ended.ended_at_s is not None


def test_the_latest_watch_is_that_over_the_last_promotion(sessions):
    with transaction(sessions) as session:
        assert live_checks.latest(session, MODEL) is None
        for epoch in (3, 2):
            live_checks.begin(session, new_check(session, epoch))
        assert live_checks.latest(session, MODEL).promotion_epoch == 3
        assert [one.promotion_epoch for one in live_checks.watching(session)] == [3, 2]
