"""Whatever the order of events, each item keeps one outcome and each job counts its own."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from db import errors, jobs, leases, models, sweeps
from db.leases import Claim
from db.session import transaction
from tests.db import builders
from tests.db.builders import LEASE_S, OVER_S, fill
from tests.db.test_races import check_counts

EVENTS = (
    "fill",
    "die",
    "finish",
    "finish again",
    "fail",
    "release",
    "reap",
    "cancel",
    "retry",
    "deliver again",
)


@dataclass
class Story:
    """One job of six items, and the claims somebody still believes in."""

    new: object
    held: list[Claim] = field(default_factory=list)
    done: list[Claim] = field(default_factory=list)

    def play(self, session, event: str, choice: int) -> None:
        claim = self.held[choice % len(self.held)] if self.held else None
        if event in ("fill", "die"):
            self.held += fill(session, choice, lease_s=LEASE_S if event == "fill" else OVER_S)
        elif event in ("finish", "fail") and claim is not None:
            self.held.remove(claim)
            failing = [choice] if event == "fail" else []
            leases.finish_all(session, [(claim, builders.outcomes_of(claim, failing=failing))])
            self.done.append(claim)
        elif event == "finish again" and self.done:
            again = self.done[choice % len(self.done)]
            finished = leases.finish_all(session, [(again, builders.outcomes_of(again))])
            assert finished.lost == {again.shard_id}
        elif event == "release" and claim is not None:
            leases.release(session, claim, delay_s=0, forgive=choice % 2 == 0)
        elif event == "reap":
            sweeps.reap(session, max_attempts=2)
        elif event == "retry":
            jobs.retry(session, self.new.id, shard_size=2)
        elif event == "deliver again":
            builders.receive(session, self.new, shard_size=4)
        elif event == "cancel" and jobs.job(session, self.new.id).state in models.OPEN:
            jobs.cancel(session, self.new.id)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 6)), max_size=25))
def test_every_item_keeps_one_outcome_and_every_counter_agrees(sessions, events):
    story = Story(new=builders.job(6))
    with transaction(sessions) as session:
        for table in (models.Outcome, models.Shard, models.Part, models.Job):
            session.execute(delete(table))
        builders.receive(session, story.new)
    with transaction(sessions) as session:
        for event, choice in events:
            story.play(session, event, choice)
            check_counts(session, story.new.id)
    with transaction(sessions) as session:
        finish_everything(session, story.new.id)


def finish_everything(session, job_id):
    """Whatever happened, the job can still be brought to its end."""
    jobs.retry(session, job_id, shard_size=4)
    held = session.query(models.Shard).where(models.Shard.state == "claimed").all()
    leases.extend(session, [(shard.id, shard.fence) for shard in held], lease_s=OVER_S)
    sweeps.reap(session, max_attempts=99)
    for claim in fill(session, 99):
        leases.finish(session, claim, builders.outcomes_of(claim))
    view = jobs.job(session, job_id)
    assert (view.num_waiting, view.num_open_shards) == (0, 0)
    assert view.state in ("succeeded", "partial", "failed")
    with pytest.raises(errors.JobFinished):
        jobs.cancel(session, job_id)
