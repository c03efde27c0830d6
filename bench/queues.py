"""Takes the name of a queue. Gives it running: a Redis of its own, two workers that may be killed, and a sender.

imagemill and its peers alike; a peer's workers are processes of an environment of its own. Knows nothing of when to
kill.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from bench import stacks
from bench.peers import environments, families, notebook
from bench.stacks import MODEL
from db import models, session, workers
from pipeline import digits
from tests import builders
from worker import sizing
from worker.settings import Settings
from worker.stack import Stack

ROOT = Path(__file__).parents[1]
#: workers of each queue
NUM_WORKERS = 2
#: seconds until what a dead worker held is given to another, wherever that can be set
SILENT_S = 10.0


@dataclass(slots=True, kw_only=True)
class Seen:
    """What happened to jobs, by their names; times are epoch seconds."""

    sent: dict[str, float] = field(default_factory=dict)
    #: how often each was begun
    begun: Counter[str] = field(default_factory=Counter)
    #: when each was recorded, each time
    recorded: dict[str, list[float]] = field(default_factory=dict)


class Queue(Protocol):
    """A queue that runs."""

    #: with its version
    name: str
    #: what was set, for the reader
    settings: str

    def is_ready(self) -> bool:
        """Whether all workers take work."""

    def num_recorded(self) -> int:
        """Count the jobs that are recorded."""

    def kill(self, number: int) -> None:
        """Kill a worker with all its processes, and start it again at once."""

    def seen(self) -> Seen:
        """Tell what happened to the jobs so far."""

    def sender(self) -> subprocess.Popen[str]:
        """Start a process that sends as many jobs as it is told, a number a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """How a peer is started."""

    package: str
    #: behind the environment's `python -m`
    worker: Sequence[str]
    #: what a worker says once it takes work
    ready: str
    #: how it spells the address of a Redis on a socket
    redis: str
    settings: str


PEERS: Mapping[str, Peer] = {
    "celery": Peer(
        package="celery",
        worker=("celery", "--app", "bench.peers.queue_celery", "worker", "--loglevel", "INFO", "-O", "fair",
                "--without-mingle", "--without-gossip", "--hostname", "{number}@%h"),
        ready=" ready.",
        redis="redis+socket://{socket}",
        settings="acks_late, retry_on_worker_lost, prefetch 1, -c 1, visibility_timeout 10 s, restore every second",
    ),
    "dramatiq": Peer(
        package="dramatiq",
        worker=("dramatiq", "bench.peers.queue_dramatiq", "--processes", "1", "--threads", "1"),
        ready="Worker process is ready for action.",
        redis="unix://{socket}",
        settings="one process, one thread, retries, heartbeat_timeout 10 s, maintenance at every tenth command",
    ),
    "rq": Peer(
        package="rq",
        worker=("rq.cli", "worker", "--url", "unix://{socket}", "--path", ".", "--name", "{name}",
                "--maintenance-interval", "5", "--job-monitoring-interval", "5", "--worker-ttl", "20"),
        ready="Listening on",
        redis="unix://{socket}",
        settings="Retry(max=10), worker-ttl 20 s, maintenance and heartbeat every 5 s (abandoned after 60 s more)",
    ),
}  # fmt: skip


class _Foreign:
    """A peer that runs."""

    def __init__(self, peer: Peer, environment: environments.Environment, folder: Path, socket: str) -> None:
        self.name = f"{peer.package} {environment.packages[peer.package]}"
        self.settings = peer.settings
        self._peer = peer
        self._python = str(environment.python)
        self._folder = folder
        self._socket = socket
        self._book = folder / "notebook"
        self._book.touch()
        self._num_read, self._num_recorded = 0, 0
        self._num_started = 0
        self._workers = [self._start(number) for number in range(NUM_WORKERS)]

    def is_ready(self) -> bool:
        return all(self._peer.ready in log.read_text(errors="replace") for _, log in self._workers)

    def num_recorded(self) -> int:
        with self._book.open() as lines:
            lines.seek(self._num_read)
            new = lines.read()
        self._num_read += len(new)
        self._num_recorded += new.count("done ")
        return self._num_recorded

    def kill(self, number: int) -> None:
        process, _ = self._workers[number]
        _kill(process)
        self._workers[number] = self._start(number)

    def seen(self) -> Seen:
        return _read(self._book)

    def sender(self) -> subprocess.Popen[str]:
        return _sender([self._python, "-m", f"bench.peers.queue_{self._peer.package}"], self._environ())

    def close(self) -> None:
        for process, _ in self._workers:
            _kill(process)

    def _start(self, number: int) -> tuple[subprocess.Popen[bytes], Path]:
        self._num_started += 1
        log = self._folder / f"worker-{self._num_started}.log"
        named = {"number": number, "socket": self._socket, "name": f"worker-{self._num_started}"}
        command = [self._python, "-m", *(part.format(**named) for part in self._peer.worker)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=ROOT, env=self._environ(),
                start_new_session=True,
            )  # fmt: skip
        return process, log

    def _environ(self) -> dict[str, str]:
        return _environ(self._book) | {notebook.REDIS: self._peer.redis.format(socket=self._socket)}


class _Ours:
    """imagemill, of one image a job."""

    def __init__(self, bench: stacks.Bench, sessions: sessionmaker[Session], folder: Path) -> None:
        self.name = "imagemill"
        self.settings = "as it is, lease_s 10 s, sweep_s 1 s; each job classifies an image"
        self._stack = bench.stack
        self._sessions = sessions
        self._image = folder / "image.png"
        self._image.write_bytes(builders.png_bytes(size=(32, 32)))
        self._book = folder / "notebook"
        self._book.touch()

    def is_ready(self) -> bool:
        with session.reading(self._sessions) as reading:
            alive = [one for one in workers.list_alive(reading, within_s=sizing.ALIVE_S) if one.role == "classify"]
        return sum(Path(f"/proc/{one.pid}").exists() for one in alive) == NUM_WORKERS

    def num_recorded(self) -> int:
        with session.reading(self._sessions) as reading:
            return reading.scalar(select(func.count()).select_from(models.Outcome))

    def kill(self, number: int) -> None:
        part = [part for part in self._stack.parts if part.name.startswith("classify")][number]
        _kill(part.process)
        self._stack.parts.remove(part)
        self._stack.start(part.name, *part.command[3:])

    def seen(self) -> Seen:
        seen = _read(self._book)
        with session.reading(self._sessions) as reading:
            for job, at_s in reading.execute(select(models.Outcome.job_id, models.Outcome.recorded_at_s)):
                seen.recorded.setdefault(str(job), []).append(at_s)
            # A claim is a beginning, and raises the fence by one.
            for job, fence in reading.execute(select(models.Shard.job_id, models.Shard.fence)):
                seen.begun[str(job)] += fence
        return seen

    def sender(self) -> subprocess.Popen[str]:
        told = [self._stack.settings.broker_url, MODEL, self._image.as_uri()]
        return _sender([sys.executable, "-m", "bench.peers.queue_imagemill", *told], _environ(self._book))


@contextmanager
def running(name: str, cache: Path) -> Iterator[Queue]:
    """Run a queue and its two workers. Raises `NotInstalled`."""
    with tempfile.TemporaryDirectory(prefix="im-queue-") as folder:
        if name == "imagemill":
            timing = {"lease_s": SILENT_S, "sweep_s": 1.0}
            network = builders.tiny_network(10)
            with (
                stacks.running(digits.ARCH, network, 10, processes=NUM_WORKERS, **timing) as bench,
                session.connected(bench.stack.settings.database_url) as sessions,
            ):
                yield _Ours(bench, sessions, Path(folder))
            return
        environment = environments.make(f"queue_{name}", cache)
        with Stack(settings=Settings(home=Path(folder)).resolved()) as stack:
            stack.start_redis()
            socket = stack.settings.broker_url.removeprefix("redis+socket://")
            peer = _Foreign(PEERS[name], environment, Path(folder), socket)
            try:
                yield peer
            finally:
                peer.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    families.signal_all(families.of(process.pid), signal.SIGKILL)
    process.wait()


def _sender(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ, start_new_session=True
    )


def _environ(book: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEMILL_")}
    return kept | {notebook.NOTEBOOK: str(book)}


def _read(book: Path) -> Seen:
    seen = Seen()
    for line in book.read_text().splitlines():
        what, job, at_s = line.split()
        if what == "sent":
            seen.sent[job] = float(at_s)
        elif what == "begun":
            seen.begun[job] += 1
        else:
            seen.recorded.setdefault(job, []).append(float(at_s))
    return seen
