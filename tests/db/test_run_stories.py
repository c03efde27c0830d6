"""Whatever the order of events, a model has one run at most that goes on, each ends once, and no step is done twice."""

import sys
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select, update

from db import errors, models, runs
from db.models import ACTIVE
from tests.db import builders
from tests.db.builders import LEASE_S, OVER_S
from tests.properties import tried

MODELS = ("cats", "dogs")
STEPS = ("snapshot", "train", "judge")
WHICH = st.integers(0, 5)


@dataclass(kw_only=True)
class Shadow:
    """A run as it must be, without a clock."""

    model: str
    state: str = "queued"
    fence: int = 0
    attempts: int = 0
    verdict: str | None = None
    step: str | None = None
    #: by name: the fence under which it was done, None while it is not
    steps: dict[str, int | None] = field(default_factory=dict)
    is_over: bool = False
    is_unwanted: bool = False

    @property
    def is_left(self) -> bool:
        return self.state == "running" and self.is_over

    def is_held(self, fence: int) -> bool:
        return (self.state, self.fence) == ("running", fence)

    def end(self, state: str, verdict: str | None = None) -> None:
        self.state, self.verdict = state, verdict


class Learners(RuleBasedStateMachine):
    """Schedulers, workers, people and time, on two models; all in one transaction that is rolled back."""

    def __init__(self, sessions):
        super().__init__()
        self.session = sessions()
        self.runs: dict[int, Shadow] = {}
        #: (run id, fence) that anybody ever took to be theirs
        self.claims: list[tuple[int, int]] = []

    def teardown(self):
        try:
            if sys.exception() is None:  # the story itself is sound
                self.drain()
        finally:
            self.session.close()

    def event(self):
        return self.session.begin_nested()

    def nth_run(self, which):
        number = sorted(self.runs)[-1 - which % len(self.runs)]
        return number, self.runs[number]

    def nth_claim(self, which):
        """Give one of the last claims, held or lost long ago; where nobody holds anything, somebody claims first."""
        if not any(self.runs[number].is_held(fence) for number, fence in self.claims[-6:]):
            self.request(MODELS[which % 2])
            for waiting in range(len(self.runs)):
                self.claim(waiting, LEASE_S)
        number, fence = self.claims[-1 - which % len(self.claims)]
        run = self.runs[number]
        return number, fence, run, run.is_held(fence)

    def write(self, is_held, told):
        """Do what only the holder may: everybody else is refused, and nothing of theirs stays."""
        if is_held:
            with self.event():
                told()
        else:
            with pytest.raises(errors.RunLost), self.event():
                told()

    @rule(model=st.sampled_from(MODELS))
    def request(self, model):
        is_free = not any(run.model == model and run.state in ACTIVE for run in self.runs.values())
        with self.event():
            made = runs.request(self.session, builders.new_run(model))
        assert (made is not None) == is_free
        if made is not None:
            self.runs[made.id] = Shadow(model=model)

    @precondition(lambda self: self.runs)
    @rule(which=WHICH, lease_s=st.sampled_from([LEASE_S, OVER_S]))
    def claim(self, which, lease_s):
        number, run = self.nth_run(which)
        with self.event():
            claimed = runs.claim(self.session, number, owner="ada", lease_s=lease_s)
        assert (claimed is not None) == (run.state == "queued" or run.is_left)
        if claimed is not None:
            run.state, run.fence, run.attempts = "running", run.fence + 1, run.attempts + 1
            run.is_over = lease_s <= 0
            assert (claimed.fence, claimed.attempts) == (run.fence, run.attempts)
            self.claims.append((number, claimed.fence))

    @rule(which=WHICH, lease_s=st.sampled_from([LEASE_S, OVER_S]))
    def extend(self, which, lease_s):
        number, fence, run, is_held = self.nth_claim(which)
        with self.event():
            told = runs.extend(self.session, number, fence, lease_s=lease_s)
        assert told == runs.Held(is_held=is_held, is_cancelled=is_held and run.is_unwanted)
        if is_held:
            run.is_over = lease_s <= 0

    @rule(which=WHICH, name=st.sampled_from(STEPS))
    def begin_step(self, which, name):
        number, fence, run, is_held = self.nth_claim(which)
        self.write(is_held, partial(runs.begin_step, self.session, number, fence, name))
        if is_held:
            run.step = name
            run.steps.setdefault(name, None)

    @rule(which=WHICH, name=st.sampled_from(STEPS))
    def finish_step(self, which, name):
        number, fence, run, is_held = self.nth_claim(which)
        if is_held and run.steps.get(name, 0) is not None:
            return  # a holder does what was begun, and what is done it does not do again
        self.write(is_held, partial(runs.finish_step, self.session, number, fence, name, {"by": fence}))
        if is_held:
            run.steps[name] = fence

    @rule(which=WHICH, how=st.sampled_from([("succeeded", "promote"), ("failed", None), ("cancelled", None)]))
    def end(self, which, how):
        number, fence, run, is_held = self.nth_claim(which)
        state, verdict = how
        self.write(is_held, partial(runs.end, self.session, number, fence, state=state, verdict=verdict))
        if is_held:
            run.end(state, verdict)

    @rule(which=WHICH)
    def release(self, which):
        number, fence, run, is_held = self.nth_claim(which)
        with self.event():
            runs.release(self.session, number, fence)
        if is_held:
            run.state, run.attempts = "queued", run.attempts - 1

    @rule(which=WHICH)
    def die(self, which):
        number, _, run, is_held = self.nth_claim(which)
        if is_held:
            self.session.execute(update(models.Run).where(models.Run.id == number).values(lease_until_s=1.0))
            run.is_over = True

    @precondition(lambda self: self.runs)
    @rule(which=WHICH)
    def cancel(self, which):
        number, run = self.nth_run(which)
        if run.state not in ACTIVE:
            with pytest.raises(errors.RunFinished), self.event():
                runs.cancel(self.session, number)
            return
        with self.event():
            state = runs.cancel(self.session, number)
        run.is_unwanted = True
        if run.state == "queued" or run.is_left:
            run.end("cancelled")
        assert state == run.state

    @rule(max_attempts=st.integers(1, 3))
    def give_up(self, max_attempts):
        with self.event():
            ended = runs.give_up(self.session, max_attempts)
        left = [number for number, run in sorted(self.runs.items()) if run.is_left]
        assert ended == [n for n in left if self.runs[n].is_unwanted or self.runs[n].attempts >= max_attempts]
        for number in ended:
            self.runs[number].end("cancelled" if self.runs[number].is_unwanted else "failed")

    @invariant()
    def the_ledger_is_what_the_story_says(self):
        rows = {row.id: row for row in self.session.scalars(select(models.Run))}
        assert rows.keys() == self.runs.keys()
        steps: dict[int, dict[str, int | None]] = {}
        for step in self.session.scalars(select(models.Step)):
            steps.setdefault(step.run_id, {})[step.name] = step.result and step.result["by"]
        for number, run in self.runs.items():
            row = rows[number]
            told = (row.model, row.state, row.fence, row.attempts, row.verdict, row.step)
            assert told == (run.model, run.state, run.fence, run.attempts, run.verdict, run.step)
            assert (row.finished_at_s is None) == (run.state in ACTIVE)
            assert (row.lease_until_s is not None) == (run.state == "running")
            assert steps.get(number, {}) == run.steps

    @invariant()
    def whoever_looks_for_work_finds_what_is_left(self):
        waiting = [n for n, run in sorted(self.runs.items()) if run.state == "queued" or run.is_left]
        assert runs.due(self.session, older_than_s=-1.0) == waiting
        for model in MODELS:
            going_on = [n for n, run in self.runs.items() if run.model == model and run.state in ACTIVE]
            active = runs.active(self.session, model)
            assert ([active.id] if active else []) == going_on

    def drain(self):
        """Whatever happened, each run comes to its end."""
        for which in range(len(self.claims)):
            self.die(which)
        self.give_up(1)
        for which, number in enumerate(sorted(self.runs, reverse=True)):
            if self.runs[number].state in ACTIVE:
                self.claim(which, LEASE_S)
                self.end(0, ("succeeded", "promote"))
        self.the_ledger_is_what_the_story_says()
        assert not any(run.state in ACTIVE for run in self.runs.values())


def test_a_run_ends_once_and_is_one_persons_at_a_time_whatever_happens_in_any_order(sessions):
    run_state_machine_as_test(partial(Learners, sessions), settings=tried(12, stateful_step_count=30))
