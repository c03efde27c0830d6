"""Takes a mill. Gives a trial: jobs submitted until they are acknowledged, faults, and the row that SQL tells of them.

Knows nothing of any one fault. What falls over is started again, as Compose's restart policy does.
"""

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db import models, session
from tests import builders
from tests.chaos import rows
from tests.mills import PATIENCE_S, Mill, open_mill
from worker.client import BrokerUnreachable, Client, NotAcknowledged, Refused
from worker.stack import Part

#: callers that submit at once
NUM_CALLERS = 5
#: seconds a caller waits before it submits again what was not acknowledged
AGAIN_S = 0.2
#: seconds that one exchange of a caller with intake may take
TIMEOUT_S = 30.0
#: small batches, and nothing measured at start: what is claimed at once is little, and a start takes seconds
QUICK = {"models": ("tiny", "swap"), "batch_size": 8, "torch_threads": 1, "decoder": "pillow"}

_NUMBERS = count(1)


@contextmanager
def opened(home: Path, **changes: object) -> Iterator[Mill]:
    """Run a mill whose places can be armed."""
    points = home / "failpoints"
    points.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("IMAGEMILL_TEST_FAILPOINTS", str(points))
        with open_mill(home, **{**QUICK, **changes}) as mill:
            yield mill


@dataclass(slots=True, kw_only=True)
class Trial:
    """Work and faults, counted at the end."""

    mill: Mill
    #: the caller that its jobs name
    name: str
    client: Client
    callers: ThreadPoolExecutor
    began_s: float = field(default_factory=time.time)
    #: number of items by job id
    attempted: dict[str, int] = field(default_factory=dict)
    submits: list[Future[None]] = field(default_factory=list)
    #: seconds that each submit took which was not acknowledged
    refused_s: list[float] = field(default_factory=list)
    faults_at_s: list[float] = field(default_factory=list)
    restarts: Counter[str] = field(default_factory=Counter)
    #: parts that are to stay down for now
    kept_down: set[str] = field(default_factory=set)

    def submit(self, jobs: Iterable[Sequence[str]], *, every_s: float = 0.0, **options: object) -> None:
        """Submit jobs, given by their references, from several threads; each caller waits `every_s` after each."""
        for references in jobs:
            self.submits.append(self.callers.submit(self._submit, list(references), every_s, options))

    def _submit(self, references: list[str], every_s: float, options: dict[str, object]) -> None:
        job_id = str(uuid.uuid4())
        self.attempted[job_id] = len(references)
        given = {"model": "tiny", "job_id": job_id, "caller": self.name, **options}
        give_up_s = time.monotonic() + 2 * PATIENCE_S
        while not self._is_acknowledged(references, given):
            assert time.monotonic() < give_up_s, "a job was not acknowledged"
            time.sleep(AGAIN_S)
        time.sleep(every_s)

    def _is_acknowledged(self, references: list[str], given: dict[str, object]) -> bool:
        started_s = time.monotonic()
        try:
            self.client.submit(references, **given)
        except (BrokerUnreachable, NotAcknowledged):
            pass
        except Refused as refused:
            if refused.kind != "ledger_unreachable":
                raise
        else:
            return True
        self.refused_s.append(time.monotonic() - started_s)
        return False

    def slow(self, num_jobs: int) -> list[list[str]]:
        """Give as many jobs of one image that takes some 20 ms to decode."""
        file = self.mill.images / "slow.png"
        if not file.exists():
            file.write_bytes(builders.png_bytes(size=(900, 900)))
        return [[file.as_uri()]] * num_jobs

    def quick(self, num_jobs: int) -> list[list[str]]:
        """Give as many jobs of one tiny image."""
        return [[one] for one in self.mill.write_images(10, prefix="quick")] * (num_jobs // 10)

    def arm(self, place: str, action: str) -> None:
        """Have the next process that reaches the place do this, once."""
        armed = self._point(place)
        written = armed.with_suffix(".new")
        written.write_text(action)
        written.rename(armed)

    def await_reached(self, place: str) -> None:
        """Wait until a process has done what the place was armed with."""
        self.until(lambda: not self._point(place).exists(), f"a process reached {place}")

    def _point(self, place: str) -> Path:
        return self.mill.settings.home / "failpoints" / place

    def fault(self) -> None:
        """Note the time: a fault happens now."""
        self.faults_at_s.append(time.time())

    def kill(self, part: Part, *, whole: bool) -> None:
        """Kill a part: its first process alone, or its child, too."""
        self.fault()
        if whole:
            os.killpg(part.process.pid, signal.SIGKILL)
        part.process.kill()
        part.process.wait()

    def kill_redis(self) -> None:
        """Kill Redis; it stays down until `start_redis`."""
        self.kept_down.add("redis")
        self.kill(self.mill.part("redis"), whole=True)

    def start_redis(self) -> None:
        """Start Redis again, from its append-only file."""
        self.mill.stack.parts.remove(self.mill.part("redis"))
        self.mill.stack.start_redis()
        self.kept_down.discard("redis")

    def holders(self) -> set[int]:
        """Give the processes that hold a shard of ours under lease."""
        held = select(models.Shard.lease_owner).join(models.Job, models.Job.id == models.Shard.job_id)
        held = held.where(models.Job.caller == self.name, models.Shard.state == "claimed")
        with session.reading(self.mill.sessions) as reading:
            return {int(owner.rpartition(":")[2]) for owner in reading.scalars(held)}

    def num_recorded(self) -> int:
        """Count the outcomes of our jobs so far, by the jobs' own counters."""
        counted = select(func.coalesce(func.sum(models.Job.num_succeeded + models.Job.num_failed), 0))
        with session.reading(self.mill.sessions) as reading:
            return int(reading.scalar(counted.where(models.Job.caller == self.name)) or 0)

    def first_recorded_after(self, at_s: float) -> float:
        """Give the seconds from a time to the next outcome."""
        recorded = select(func.min(models.Outcome.recorded_at_s)).where(models.Outcome.recorded_at_s > at_s)
        with session.reading(self.mill.sessions) as reading:
            return round(float(reading.scalar(recorded)) - at_s, 2)

    def num_absorbed(self) -> int:
        """Count the messages that found nothing left to claim, by the workers' logs."""
        logs = self.mill.stack.logs.glob("classify*.log")
        return sum(log.read_text(errors="replace").count("nothing left to claim") for log in logs)

    def revive(self) -> None:
        """Start again what has fallen over."""
        for part in self.mill.stack.fallen():
            if part.name not in self.kept_down:
                self.restarts[part.name] += 1
                # A container is restarted however often it falls; `imagemill up` gives up on one that falls at once.
                part.started_s = float("-inf")
                self.mill.stack.restart(part)

    def ended(self) -> str:
        """Say which processes ended, and were started again."""
        if not self.restarts:
            return "no process ended"
        return "ended: " + ", ".join(f"{name} ({num})" for name, num in sorted(self.restarts.items()))

    def until(self, fact: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
        """Wait until a fact holds, while what falls over is started again; fail with what was waited for."""
        give_up_s = time.monotonic() + patience_s
        while not fact():
            assert time.monotonic() < give_up_s, f"waited {patience_s:.0f} s in vain until {what}"
            self.revive()
            time.sleep(0.05)

    def wait(self, seconds: float) -> None:
        """Let time pass, while what falls over is started again."""
        ends_s = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= ends_s, "time had passed", patience_s=seconds + 5)

    def drain(self, *, patience_s: float = 2 * PATIENCE_S) -> None:
        """Wait until every job was acknowledged and has ended."""
        self.until(lambda: all(one.done() for one in self.submits), "all was acknowledged", patience_s=patience_s)
        for one in self.submits:
            one.result()
        self.until(self._has_drained, "every job had ended", patience_s=patience_s)

    def _has_drained(self) -> bool:
        ended = select(func.count()).where(models.Job.caller == self.name, models.Job.finished_at_s.is_not(None))
        with session.reading(self.mill.sessions) as reading:
            return reading.scalar(ended) == len(self.attempted)

    def row(self, number: str, fault: str, *, note: str = "", num_errors: int = 0) -> rows.Row:
        """Count, after the drain, what became of every item, straight from SQL; errors must be as many as expected."""
        asked = {(uuid.UUID(job), place) for job, num in self.attempted.items() for place in range(num)}
        outcome = models.Outcome
        with session.reading(self.mill.sessions) as reading:
            told = select(outcome.job_id, outcome.position, outcome.recorded_at_s, outcome.error_kind)
            found = reading.execute(told.where(outcome.recorded_at_s >= self.began_s)).all()
        seen = Counter((job_id, place) for job_id, place, *_ in found)
        # The table's primary key forbids a second row; that nothing was counted twice either is told by the jobs.
        assert self.num_recorded() == len(asked & seen.keys())
        assert sum(kind is not None for *_, kind in found) == num_errors, Counter(kind for *_, kind in found)
        return rows.Row(
            number=number,
            fault=fault,
            database=self.mill.settings.database_url.partition(":")[0].partition("+")[0],
            submitted=len(asked),
            recorded=len(asked & seen.keys()),
            unexpected=len(seen.keys() - asked),
            duplicates=seen.total() - len(seen),
            executions=self._executions(),
            recovery_s=_recoveries(self.faults_at_s, sorted(at_s for _, _, at_s, _ in found)),
            note=note,
        )

    def _executions(self) -> float:
        """Give how often a shard was claimed: its fence rises by one with every claim, and never falls."""
        shard = models.Shard
        claims = select(func.sum(shard.fence), func.count()).join(models.Job, models.Job.id == shard.job_id)
        with session.reading(self.mill.sessions) as reading:
            num_claims, num_shards = reading.execute(claims.where(models.Job.caller == self.name)).one()
        return round(float(num_claims) / num_shards, 3)


def _recoveries(faults_at_s: Sequence[float], recorded_at_s: Sequence[float]) -> tuple[float, ...]:
    """Give the seconds from each fault to the next outcome; none after the last outcome."""
    following = ([at_s for at_s in recorded_at_s if at_s > fault_s] for fault_s in faults_at_s)
    return tuple(round(after[0] - fault_s, 2) for fault_s, after in zip(faults_at_s, following, strict=True) if after)


@contextmanager
def trial(mill: Mill) -> Iterator[Trial]:
    """Begin a trial; if it fails, the ends of the parts' logs are shown."""
    name = f"chaos {next(_NUMBERS)}"
    callers = ThreadPoolExecutor(NUM_CALLERS, "caller")
    with Client(mill.settings.broker_url, timeout_s=TIMEOUT_S) as client:
        begun = Trial(mill=mill, name=name, client=client, callers=callers)
        try:
            _await_service(begun)
            begun.began_s = time.time()
            yield begun
        except BaseException:
            _show_logs(mill.stack.logs)
            raise
        finally:
            callers.shutdown(cancel_futures=True)


def _await_service(begun: Trial) -> None:
    """Wait until a job goes through: what the trial before has killed may still be starting."""
    [references] = begun.slow(1)
    probe = begun.callers.submit(begun.client.classify, references, model="tiny", timeout_s=PATIENCE_S)
    begun.until(probe.done, "a job went through", patience_s=PATIENCE_S + 5)
    probe.result()
    begun.restarts.clear()


def _show_logs(logs: Path) -> None:
    for log in sorted(logs.glob("*.log")):
        print(log.name, *log.read_text(errors="replace").splitlines()[-25:], sep="\n  ")


def members(process_id: int) -> Collection[int]:
    """Give the processes that live in the session which a part leads."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the command's name, which may hold anything: state, parent, group, session.
            state, _, _, leader = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(leader) == process_id and state != "Z":
            found.append(int(stat.parent.name))
    return found
