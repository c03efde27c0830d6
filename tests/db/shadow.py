"""What the ledger must hold, kept in plain Python: a story is told to both, and they are compared after each event."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select

from db import models
from db.ledger import NewJob
from db.models import OPEN, WORKING
from tests.db import builders

#: what an outcome says in the shadow where it is an error, by its kind
FAILED, KILLED = "ImageUnreadable", "killed_worker"
ERRORS = (FAILED, KILLED)


@dataclass(kw_only=True)
class Shard:
    """A shard, without a clock: what time did to it is a flag."""

    job: "Job"
    positions: tuple[int, ...]
    state: str = "waiting"
    fence: int = 0
    attempts: int = 0
    #: its lease has run out
    is_over: bool = False
    #: it is due later
    is_put_off: bool = False
    #: somebody was told of it
    is_rung: bool = False

    @property
    def may_be_claimed(self) -> bool:
        return self.state == "waiting" and not self.is_put_off and self.job.state in WORKING

    def wait_again(self) -> None:
        self.state, self.is_rung, self.is_over = "waiting", False, False


@dataclass(kw_only=True)
class Job:
    """A job, with all that was ever recorded of it."""

    new: NewJob
    state: str = "receiving"
    #: first position and number of items
    parts: set[tuple[int, int]] = field(default_factory=set)
    #: by position: the label, or the kind of the error
    outcomes: dict[int, str] = field(default_factory=dict)
    is_late: bool = False

    @property
    def num_received(self) -> int:
        return sum(num for _, num in self.parts)

    def overlaps(self, first: int, num: int) -> bool:
        return any(first < other + size and other < first + num for other, size in self.parts)

    def take_part(self, first: int, num: int) -> None:
        self.parts.add((first, num))
        if self.num_received == self.new.num_items:
            self.state = "accepted"


@dataclass
class Shadow:
    """Every job and shard there is."""

    jobs: list[Job] = field(default_factory=list)
    #: by id
    shards: dict[int, Shard] = field(default_factory=dict)
    #: opened, in this order, and not yet numbered by the database
    opened: list[Shard] = field(default_factory=list)

    def open_shards(self, job: Job, positions: Sequence[int], size: int, *, is_rung: bool = False) -> None:
        chunks = [tuple(positions[start : start + size]) for start in range(0, len(positions), size)]
        self.opened += [Shard(job=job, positions=chunk, is_rung=is_rung) for chunk in chunks]

    def open_of(self, job: Job) -> list[Shard]:
        return [shard for shard in self.of(job) if shard.state in ("waiting", "claimed")]

    def of(self, job: Job) -> list[Shard]:
        return [shard for shard in (*self.shards.values(), *self.opened) if shard.job is job]

    def line(self, version_id: int, *, follows_latest: bool, untried: bool) -> list[int]:
        """Give the ids a worker may claim, in the order in which it gets them."""
        versions = (version_id, None) if follows_latest else (version_id,)
        return [
            number
            for priority in ("interactive", "bulk")
            for version in versions
            for number, shard in sorted(self.shards.items())
            if shard.may_be_claimed
            and (shard.job.new.priority, shard.job.new.version_id) == (priority, version)
            and not (untried and shard.attempts)
        ]

    def is_held(self, number: int, fence: int) -> bool:
        return (self.shards[number].state, self.shards[number].fence) == ("claimed", fence)

    def claim(self, number: int, *, is_over: bool) -> None:
        shard = self.shards[number]
        shard.state, shard.is_over = "claimed", is_over
        shard.fence += 1
        shard.attempts += 1
        if shard.job.state == "accepted":
            shard.job.state = "running"

    def record(self, number: int, said: dict[int, str]) -> None:
        """Add outcomes, and end the shard where they are the last."""
        shard = self.shards[number]
        assert not said.keys() & shard.job.outcomes.keys(), "an item would have two outcomes"
        shard.job.outcomes |= said
        shard.positions = tuple(position for position in shard.positions if position not in said)
        if not shard.positions:
            shard.state = "done"

    def settle(self, jobs: Iterable[Job]) -> None:
        """End the jobs whose last shard was closed."""
        for job in jobs:
            if job.state == "running" and not self.open_of(job):
                num_failed = sum(said in ERRORS for said in job.outcomes.values())
                both = "failed" if num_failed == len(job.outcomes) else "partial"
                job.state = both if num_failed else "succeeded"

    def reap(self, max_attempts: int) -> None:
        over = [(n, shard) for n, shard in sorted(self.shards.items()) if shard.state == "claimed" and shard.is_over]
        for number, shard in over:
            if shard.attempts < max_attempts:
                shard.wait_again()
            elif len(shard.positions) > 1:
                self.open_shards(shard.job, shard.positions, (len(shard.positions) + 1) // 2)
                shard.state, shard.positions = "split", ()
            else:
                self.record(number, dict.fromkeys(shard.positions, KILLED))
        self.settle(shard.job for _, shard in over)

    def end_early(self, job: Job, state: str) -> None:
        job.state = state
        for shard in self.open_of(job):
            shard.state = "dropped"

    def retry(self, job: Job, shard_size: int) -> int:
        """Take the errors back and revive what was dropped; gives the number of items that wait again."""
        failed = sorted(position for position, said in job.outcomes.items() if said in ERRORS)
        dropped = [shard for shard in self.of(job) if shard.state == "dropped"]
        was_ended_early = job.state in ("cancelled", "expired")
        for position in failed:
            del job.outcomes[position]
        for shard in dropped:
            shard.wait_again()
            shard.attempts, shard.is_put_off = 0, False
        self.open_shards(job, failed, shard_size)
        if failed or (was_ended_early and self.open_of(job)):
            job.state = "running" if job.num_received == job.new.num_items else "receiving"
            job.is_late = False
        return len(failed) + sum(len(shard.positions) for shard in dropped)

    # ------------------------------------------------------------ comparing

    def compare(self, session) -> None:
        """Number what was opened, then hold every row against its shadow."""
        rows = {row.id: row for row in session.scalars(select(models.Shard))}
        fresh = sorted(rows.keys() - self.shards.keys())
        self.shards |= dict(zip(fresh, self.opened, strict=True))
        self.opened = []
        assert {number: _told(row) for number, row in rows.items()} == {
            number: _expected(shard) for number, shard in self.shards.items()
        }
        jobs = {row.id: row for row in session.scalars(select(models.Job))}
        assert jobs.keys() == {job.new.id for job in self.jobs}
        said = select(models.Outcome)
        outcomes: dict[uuid.UUID, dict[int, str]] = {number: {} for number in jobs}
        for row in session.scalars(said):
            assert (row.key, row.reference) == (f"key-{row.position}", f"images/{row.position}.jpg")
            outcomes[row.job_id][row.position] = row.label or row.error_kind
        for job in self.jobs:
            self._compare_job(job, jobs[job.new.id], outcomes[job.new.id])

    def _compare_job(self, job: Job, row: models.Job, outcomes: dict[int, str]) -> None:
        assert (row.state, row.num_received) == (job.state, job.num_received)
        assert outcomes == job.outcomes
        num_failed = sum(said in ERRORS for said in outcomes.values())
        assert (row.num_failed, row.num_succeeded) == (num_failed, len(outcomes) - num_failed)
        assert row.num_open_shards == len(self.open_of(job))
        assert (row.finished_at_s is None) == (row.state in OPEN)
        # Each item that was received is in one place: it has an outcome, or one shard holds it.
        left = [position for shard in self.of(job) for position in shard.positions]
        received = [n for first, num in job.parts for n in range(first, first + num)]
        assert sorted([*outcomes, *left]) == sorted(received)


def _told(row: models.Shard) -> tuple[object, ...]:
    items = [[item.position, item.key, item.reference] for item in map(_item, row.items or ())]
    assert items == (row.items or [])
    assert row.state in ("done", "split") or row.num_items == len(items)
    positions = tuple(item[0] for item in row.items or ())
    return (row.job_id, row.state, row.fence, row.attempts, positions, row.lease_until_s is not None)


def _expected(shard: Shard) -> tuple[object, ...]:
    is_claimed = shard.state == "claimed"
    return (shard.job.new.id, shard.state, shard.fence, shard.attempts, shard.positions, is_claimed)


def _item(stored: list[object]) -> builders.Item:
    return builders.items(1, stored[0])[0]
