from db import runs, triggers
from db.session import transaction
from tests.db import builders
from tests.db.builders import MODEL


def tick(session, reason="too few labels", model=MODEL, **columns):
    return triggers.write(
        session, triggers.NewTick(model=model, reason=reason, **({"is_fired": False, "facts": {}} | columns))
    )


def told(session, model=None):
    return [(one.reason, one.num_ticks) for one in triggers.ticks(session, model, 99)]


def test_refusals_for_one_reason_in_a_row_are_one_row_that_counts_them(sessions):
    with transaction(sessions) as session:
        first = tick(session, facts={"num_new": 1})
        second = tick(session, facts={"num_new": 2})
        third = tick(session, "a run goes on")
        fourth = tick(session)
        assert told(session) == [("too few labels", 1), ("a run goes on", 1), ("too few labels", 2)]
    assert (second.id, second.facts, second.first_at_s) == (first.id, {"num_new": 2}, first.first_at_s)
    assert second.last_at_s >= first.last_at_s
    assert len({first.id, third.id, fourth.id}) == 3


def test_each_firing_is_a_row_of_its_own(sessions):
    with transaction(sessions) as session:
        assert triggers.last_fired(session, MODEL) is None
        run_id = runs.request(session, builders.new_run()).id
        for _ in range(2):
            fired = tick(session, "120 new labels", is_fired=True, run_id=run_id)
        tick(session, "120 new labels")
        assert told(session) == [("120 new labels", 1)] * 3
        assert triggers.last_fired(session, MODEL) == fired
        assert fired.run_id == run_id


def test_one_model_does_not_interrupt_another(sessions):
    with transaction(sessions) as session:
        for model in (MODEL, "dogs", MODEL, "dogs"):
            tick(session, model=model)
        assert told(session, MODEL) == [("too few labels", 2)]
        assert told(session) == [("too few labels", 2)] * 2
        assert len(triggers.ticks(session, None, 1)) == 1
