"""Whatever the order of events, each item keeps one outcome, each job counts its own, and no shard is lost."""

import sys
import uuid
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from db import bells, deliveries, errors, jobs, leases, models, registry, sweeps
from db.leases import Claim
from tests.db import builders
from tests.db.builders import LEASE_S, MODEL, OVER_S
from tests.db.shadow import FAILED, Job, Shadow
from tests.properties import tried

PART, SHARD = 4, 3
#: claims that killed their worker after which a shard is a suspect
MAX_ATTEMPTS = 2
#: which of the last few jobs, shards or claims an event is about
WHICH = st.integers(0, 5)


class Mill(RuleBasedStateMachine):
    """Submitters, workers, people, sweeps and time, in any order; all in one transaction that is rolled back.

    Each event is a savepoint in it. No event waits for a clock: a lease or a delay is made to be over.
    """

    def __init__(self, sessions):
        super().__init__()
        self.session = sessions()
        self.shadow = Shadow()
        #: all that anybody ever took to be theirs
        self.claims: list[Claim] = []
        #: claims as they were before a part of them was recorded
        self.outdated: list[Claim] = []

    def teardown(self):
        try:
            if sys.exception() is None:  # the story itself is sound
                self.drain()
        finally:
            self.session.close()

    @initialize(sizes=st.lists(st.integers(1, 10), min_size=1, max_size=3), is_delivered=st.booleans())
    def begin(self, sizes, is_delivered):
        self.versions = [registry.register(self.session, builders.new_version()).id for _ in range(2)]
        registry.promote(self.session, MODEL, self.versions[0], seen_epoch=0, who="ada", reason="first")
        # Left to chance, most stories would have nobody in them.
        for num_items in sizes:
            self.submit(num_items, "bulk", None, is_keyed=False, is_delivered=is_delivered)
            self.the_ledger_is_what_the_story_says()
            for part in range(1, 3):
                self.receive_part(0, part, "")
                self.the_ledger_is_what_the_story_says()

    def event(self):
        return self.session.begin_nested()

    def nth_job(self, which: int) -> Job:
        return self.shadow.jobs[-1 - which % len(self.shadow.jobs)]

    def nth_claim(self, which: int) -> Claim:
        """Give one of the last claims, held or lost long ago; where nobody holds anything, somebody claims first."""
        if not any(self.shadow.is_held(claim.shard_id, claim.fence) for claim in self.claims[-6:]):
            if not self.shadow.line(self.versions[0], follows_latest=True, untried=False):
                self.submit(SHARD, "bulk", None, is_keyed=False, is_delivered=True)
                self.the_ledger_is_what_the_story_says()
            self.fill(9, 0, follows_latest=True, untried=False, lease_s=LEASE_S)
        return self.claims[-1 - which % len(self.claims)]

    # ------------------------------------------------------------ submitters

    @rule(
        num_items=st.integers(1, 10),
        priority=st.sampled_from(["bulk", "interactive"]),
        pinned=st.sampled_from([None, 0, 1]),
        is_keyed=st.booleans(),
        is_delivered=st.booleans(),
    )
    def submit(self, num_items, priority, pinned, is_keyed, is_delivered):
        number = len(self.shadow.jobs)
        new = builders.job(
            num_items,
            id=uuid.UUID(int=number),
            version_id=None if pinned is None else self.versions[pinned],
            priority=priority,
            idempotency_key=f"order-{number}" if is_keyed else None,
        )
        job = Job(new=new)
        self.shadow.jobs.append(job)
        if is_delivered and num_items <= SHARD:
            self.deliver(job)
        else:
            self.receive(job, 0)

    @precondition(lambda self: self.shadow.jobs)
    @rule(which=WHICH, part=st.integers(0, 2), again=st.sampled_from(["", "", "", "crooked", "altered", "other id"]))
    def receive_part(self, which, part, again):
        job = self.nth_job(which)
        if part * PART < job.new.num_items:
            self.receive(job, part, again)

    def receive(self, job: Job, part: int, again: str = "") -> None:
        first = part * PART
        num = min(PART, job.new.num_items - first)
        if again == "crooked" and num > 1:
            first, num = first + 1, num - 1
        if again == "other id" and job.new.idempotency_key is None:
            again = ""
        sent = replace(job.new, id=uuid.UUID(int=2**100)) if again == "other id" else job.new
        told = partial(builders.receive, self.session, sent, first, num, digest=again * (again == "altered") or "d")
        told = partial(told, shard_size=SHARD)
        if (first, num) in job.parts and again == "altered":
            self.refused(told, errors.IdempotencyConflict)
        elif (first, num) in job.parts:
            with self.event():
                receipt = told()
            assert (receipt.job_id, receipt.state, receipt.newly_accepted) == (job.new.id, job.state, False)
        elif job.overlaps(first, num):
            self.refused(told, errors.PartInvalid)
        elif job.state != "receiving":
            self.refused(told, errors.JobFinished)
        elif again not in ("altered", "crooked"):
            with self.event():
                receipt = told()
            job.take_part(first, num)
            self.shadow.open_shards(job, range(first, first + num), SHARD)
            assert receipt.newly_accepted == (job.state == "accepted")

    def refused(self, told, how):
        with pytest.raises(how), self.event():
            told()

    def deliver(self, job: Job) -> None:
        delivery = deliveries.Delivery(job=job.new, items=builders.items(job.new.num_items), digest="d")
        with self.event():
            rung = deliveries.receive(self.session, [delivery, delivery])
        assert len(rung) == 1
        job.take_part(0, job.new.num_items)
        self.shadow.open_shards(job, range(job.new.num_items), SHARD, is_rung=True)

    @precondition(lambda self: self.shadow.jobs)
    @rule(which=WHICH)
    def deliver_again(self, which):
        job = self.nth_job(which)
        with self.event():
            items = builders.items(job.new.num_items)
            assert not deliveries.receive(self.session, [deliveries.Delivery(job=job.new, items=items, digest="d")])

    # ------------------------------------------------------------ workers

    @precondition(lambda self: self.shadow.shards)
    @rule(which=WHICH, lease_s=st.sampled_from([LEASE_S, OVER_S]))
    def claim(self, which, lease_s):
        number = sorted(self.shadow.shards)[-1 - which % len(self.shadow.shards)]
        shard = self.shadow.shards[number]
        is_left = shard.state == "claimed" and shard.is_over and shard.job.state in models.WORKING
        with self.event():
            claim = leases.claim(self.session, number, owner="ada", lease_s=lease_s)
        assert (claim is not None) == (shard.may_be_claimed or is_left)
        if claim is not None:
            self.take([claim], lease_s)

    @rule(
        max_items=st.integers(1, 9),
        version=st.integers(0, 1),
        follows_latest=st.booleans(),
        untried=st.booleans(),
        lease_s=st.sampled_from([LEASE_S, OVER_S]),
    )
    def fill(self, max_items, version, follows_latest, untried, lease_s):
        asked = {"version_id": self.versions[version], "follows_latest": follows_latest, "untried": untried}
        expected, num_items = [], 0
        for number in self.shadow.line(**asked):
            num_items += len(self.shadow.shards[number].positions)
            if expected and num_items > max_items:
                break
            expected.append(number)
        with self.event():
            claims = leases.claim_waiting(
                self.session, model=MODEL, max_items=max_items, owner="ada", lease_s=lease_s, **asked
            )
        assert [claim.shard_id for claim in claims] == expected
        self.take(claims, lease_s)

    def take(self, claims, lease_s):
        for claim in claims:
            shard = self.shadow.shards[claim.shard_id]
            self.shadow.claim(claim.shard_id, is_over=lease_s <= 0)
            assert (claim.fence, claim.attempts, claim.job_id) == (shard.fence, shard.attempts, shard.job.new.id)
            assert tuple(item.position for item in claim.items) == shard.positions
        self.claims += claims

    @rule(which=st.lists(WHICH, max_size=3), lease_s=st.sampled_from([LEASE_S, OVER_S]))
    def extend(self, which, lease_s):
        asked = {(claim.shard_id, claim.fence) for claim in map(self.nth_claim, which)}
        with self.event():
            held = leases.extend(self.session, asked, lease_s=lease_s)
        working = [one for one in asked if self.shadow.shards[one[0]].job.state in models.WORKING]
        assert held == {number for number, fence in working if self.shadow.is_held(number, fence)}
        for number in held:
            self.shadow.shards[number].is_over = lease_s <= 0

    @rule(which=st.lists(WHICH, min_size=1, max_size=3), failing=st.integers(0, 9), is_killed=st.booleans())
    def finish(self, which, failing, is_killed):
        """Finish claims together, also such as were lost or finished before; `is_killed` dies before the commit."""
        claims = list({(one.shard_id, one.fence): one for one in map(self.nth_claim, which)}.values())
        work = [(claim, self.said(claim, failing)) for claim in claims]
        held = [claim for claim in claims if self.shadow.is_held(claim.shard_id, claim.fence)]
        with self.event() as savepoint:
            finished = leases.finish_all(self.session, work)
            if is_killed:
                savepoint.rollback()
        assert finished.lost == {claim.shard_id for claim in claims if claim not in held}
        if is_killed:
            return
        self.record([(claim, said) for claim, said in work if claim in held])
        touched = {claim.job_id: self.shadow.shards[claim.shard_id].job for claim in held}
        assert finished.states == {job_id: job.state for job_id, job in touched.items()}
        assert {ended.id for ended in finished.ended} == {
            job_id for job_id, job in touched.items() if job.state in leases.ENDED_BY_WORK
        }

    def said(self, claim, failing):
        """Say something else at every claim, so that an outcome that is written over shows."""
        return [
            builders.failed(item)
            if item.position == failing
            else builders.labelled(item, label=f"by claim {claim.shard_id}.{claim.fence}")
            for item in claim.items
        ]

    def record(self, work):
        for claim, recorded in work:
            said = {one.position: one.label or FAILED for one in recorded}
            self.shadow.record(claim.shard_id, said)
        self.shadow.settle(self.shadow.shards[claim.shard_id].job for claim, _ in work)

    @rule(which=WHICH, num=st.integers(0, 3), failing=st.integers(0, 9))
    def finish_part(self, which, num, failing):
        claim = self.nth_claim(which)
        part = self.said(claim, failing)[:num]
        is_held = self.shadow.is_held(claim.shard_id, claim.fence)
        with self.event():
            assert leases.finish_part(self.session, claim, part) == is_held
        if is_held:
            self.record([(claim, part)])
            self.outdated += [claim] if part else []
            self.claims[self.claims.index(claim)] = replace(claim, items=claim.items[len(part) :])

    @rule(which=WHICH)
    def finish_what_was_finished_in_part(self, which):
        """Outcomes that are there already come again: the whole attempt is undone."""
        if not self.outdated:
            self.finish_part(which, 1, 99)
        if not self.outdated:
            return
        claim = self.outdated[-1 - which % len(self.outdated)]
        if self.shadow.is_held(claim.shard_id, claim.fence):
            self.refused(partial(leases.finish, self.session, claim, self.said(claim, 99)), IntegrityError)
        else:
            self.refused(partial(leases.finish, self.session, claim, self.said(claim, 99)), errors.LeaseLost)

    @rule(which=WHICH, forgive=st.booleans(), delay_s=st.sampled_from([0.0, 60.0]))
    def release(self, which, forgive, delay_s):
        claim = self.nth_claim(which)
        with self.event():
            leases.release(self.session, claim, delay_s=delay_s, forgive=forgive)
        if self.shadow.is_held(claim.shard_id, claim.fence):
            shard = self.shadow.shards[claim.shard_id]
            shard.wait_again()
            shard.attempts -= forgive
            shard.is_put_off = delay_s > 0

    # ------------------------------------------------------------ time, sweeps and bells

    @rule(which=WHICH)
    def die(self, which):
        claim = self.nth_claim(which)
        if self.shadow.is_held(claim.shard_id, claim.fence):
            self.set(models.Shard, claim.shard_id, lease_until_s=1.0)
            self.shadow.shards[claim.shard_id].is_over = True

    @rule()
    def wait(self):
        for number, shard in self.shadow.shards.items():
            if shard.is_put_off:
                self.set(models.Shard, number, not_before_s=1.0)
                shard.is_put_off = False

    @precondition(lambda self: self.shadow.jobs)
    @rule(which=WHICH)
    def let_the_deadline_pass(self, which):
        job = self.nth_job(which)
        self.set(models.Job, job.new.id, deadline_s=1.0)
        job.is_late = True

    def set(self, table, number, **columns):
        self.session.execute(update(table).where(table.id == number).values(columns))

    @rule(max_attempts=st.sampled_from([MAX_ATTEMPTS, 1]))
    def reap(self, max_attempts):
        with self.event():
            sweeps.reap(self.session, max_attempts=max_attempts)
        self.shadow.reap(max_attempts)

    @rule()
    def expire(self):
        late = [job for job in self.shadow.jobs if job.is_late and job.state in models.OPEN]
        with self.event():
            assert sweeps.expire(self.session) == len(late)
        for job in late:
            self.shadow.end_early(job, "expired")

    @precondition(lambda self: self.shadow.jobs)
    @rule(which=WHICH, limit=st.integers(1, 3))
    def ring(self, which, limit):
        job = self.nth_job(which)
        untold = [n for n, one in sorted(self.shadow.shards.items()) if one.job is job and one.may_be_claimed]
        untold = [number for number in untold if not self.shadow.shards[number].is_rung][:limit]
        with self.event():
            assert [bell.shard_id for bell in bells.take(self.session, job.new.id, limit=limit)] == untold
        for number in untold:
            self.shadow.shards[number].is_rung = True

    # ------------------------------------------------------------ people

    @precondition(lambda self: self.shadow.jobs)
    @rule(which=WHICH)
    def cancel(self, which):
        job = self.nth_job(which)
        if job.state in models.OPEN:
            with self.event():
                assert jobs.cancel(self.session, job.new.id) == "cancelled"
            self.shadow.end_early(job, "cancelled")
        else:
            self.refused(partial(jobs.cancel, self.session, job.new.id), errors.JobFinished)

    @precondition(lambda self: self.shadow.jobs)
    @rule(which=WHICH, shard_size=st.integers(1, 4))
    def retry(self, which, shard_size):
        job = self.nth_job(which)
        with self.event():
            num_items = jobs.retry(self.session, job.new.id, shard_size=shard_size)
        assert num_items == self.shadow.retry(job, shard_size)

    @rule(version=st.integers(0, 1))
    def promote(self, version):
        with self.event():
            epoch = registry.serving(self.session, MODEL).epoch
            chosen = self.versions[version]
            registry.promote(self.session, MODEL, chosen, seen_epoch=epoch, who="ada", reason="better")

    # ------------------------------------------------------------ what holds after each

    @invariant()
    def the_ledger_is_what_the_story_says(self):
        self.session.expire_all()
        self.shadow.compare(self.session)

    @invariant()
    def whatever_may_be_claimed_is_or_will_be_rung_for(self):
        due = {number: shard for number, shard in self.shadow.shards.items() if shard.may_be_claimed}
        owed = [bell.shard_id for bell in bells.unrung(self.session, older_than_s=None, limit=999)]
        assert owed == [number for number in sorted(due) if not due[number].is_rung]
        assert [bell.shard_id for bell in bells.unrung(self.session, older_than_s=-1.0, limit=999)] == sorted(due)

    def drain(self):
        """Whatever happened, every job can be brought to its end, with an outcome for each of its items."""
        self.work_off()
        for job in self.shadow.jobs:
            kept = dict(job.outcomes)
            for part in range(0, job.new.num_items, PART):
                self.retry(0 if job is self.shadow.jobs[-1] else self.shadow.jobs[::-1].index(job), SHARD)
                self.receive(job, part // PART)
                self.the_ledger_is_what_the_story_says()
            assert kept.items() >= {p: said for p, said in job.outcomes.items() if p in kept}.items()
        self.work_off()
        for job in self.shadow.jobs:
            assert job.state == "succeeded"
            assert sorted(job.outcomes) == list(range(job.new.num_items))

    def work_off(self):
        """Let every lease and delay run out, and finish what waits; what has ended early is left alone."""
        self.wait()
        for claim in self.claims:
            self.die(self.claims[::-1].index(claim))
        self.reap(99)
        self.the_ledger_is_what_the_story_says()
        first = len(self.claims)
        for version in (0, 1):
            self.fill(999, version, follows_latest=True, untried=False, lease_s=LEASE_S)
        for claim in self.claims[first:]:
            self.finish([self.claims[::-1].index(claim)], failing=99, is_killed=False)
        self.the_ledger_is_what_the_story_says()
        assert not any(self.shadow.open_of(job) for job in self.shadow.jobs if job.state in models.WORKING)


def test_every_item_keeps_one_outcome_and_no_shard_is_lost_whatever_happens_in_any_order(sessions):
    run_state_machine_as_test(partial(Mill, sessions), settings=tried(30, stateful_step_count=40))
