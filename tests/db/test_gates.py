import pytest
from sqlalchemy.exc import IntegrityError

from db import gates, registry, runs
from db.session import transaction
from tests.db import builders
from tests.db.builders import MODEL


def new_gate(session, **columns):
    challenger = registry.register(session, builders.new_version())
    usual = {
        "run_id": None,
        "challenger_id": challenger.id,
        "champion_id": None,
        "test_digest": "5f",
        "verdict": "promote",
        "reason": "It is no worse.",
        "numbers": {"difference": 0.012, "low": -0.004},
    }
    return gates.NewGate(**(usual | columns))


def test_a_verdict_is_read_back_with_its_numbers_and_names(sessions):
    with transaction(sessions) as session:
        champion = registry.register(session, builders.new_version())
        run_id = runs.request(session, builders.new_run()).id
        recorded = gates.record(session, new_gate(session, run_id=run_id, champion_id=champion.id))
        assert (recorded.challenger, recorded.champion) == ("cats:2", "cats:1")
        assert recorded.numbers == {"difference": 0.012, "low": -0.004}
        assert gates.by_id(session, recorded.id) == gates.by_run(session, run_id) == recorded
        assert gates.by_run(session, run_id + 1) is None


def test_the_latest_verdict_is_that_on_a_version_of_the_model(sessions):
    with transaction(sessions) as session:
        assert gates.latest(session, MODEL) is None
        gates.record(session, new_gate(session, verdict="hold"))
        second = gates.record(session, new_gate(session, verdict="underpowered"))
        other = registry.register(session, builders.new_version("dogs"))
        gates.record(session, new_gate(session, challenger_id=other.id))
        assert gates.latest(session, MODEL) == second
        assert (second.verdict, second.champion) == ("underpowered", None)


def test_a_verdict_nobody_knows_is_refused(sessions):
    with pytest.raises(IntegrityError), transaction(sessions) as session:
        gates.record(session, new_gate(session, verdict="not_recommended"))
