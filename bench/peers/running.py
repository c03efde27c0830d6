"""Takes peers' names and a task. Gives their rounds, interleaved as the caller likes, from processes that stay alive.

Between its rounds a peer is stopped in its tracks (SIGSTOP), so that none burns what another is measured with.
Knows nothing of what the peers do.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.peers import environments, families
from bench.peers.environments import Environment
from bench.peers.rounds import Task

ROOT = Path(__file__).parents[2]
#: seconds a peer may take to start, a round may take, and a peer may take to end
START_S, ROUND_S, END_S = 240.0, 1200.0, 30.0
#: seconds after which a peer that was continued is idle again
SETTLE_S = 2.0
#: the contenders, as they are named in environments and as modules here
PEERS = tuple(environments.RECIPES)


class PeerFailed(Exception):
    """A peer did not start, did not answer in time, or ended; the message is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of one peer."""

    images_per_s: float
    #: labels of the first images
    top1: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What was seen of one peer."""

    peer: str
    #: one figure per round
    images_per_s: tuple[float, ...]
    #: labels of the first images
    top1: tuple[str, ...]
    #: what the reader must know to read it right, such as why there is no figure
    note: str


@dataclass(slots=True, kw_only=True)
class Contest:
    """Several peers with one task. Use as a context: whatever happens inside, everything it started is ended."""

    peers: Sequence[str]
    task: Task
    #: where environments are kept
    folder: Path = environments.CACHE
    _running: dict[str, Peer] = field(default_factory=dict)
    _rounds: dict[str, list[Round]] = field(default_factory=dict)
    _notes: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Contest:
        try:
            for name in self.peers:
                self._open(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._running.values():
            peer.close()
        self._running.clear()

    def round(self) -> None:
        """Run one round of each peer, one after the other; one that fails is left out from then on."""
        for name, peer in list(self._running.items()):
            try:
                self._rounds[name].append(peer.run())
            except PeerFailed as error:
                self._notes[name] = str(error)
                self._running.pop(name).close()

    def ran(self) -> list[Ran]:
        """Give what was seen so far, of every peer that was asked for."""
        return [
            Ran(
                peer=name,
                images_per_s=tuple(one.images_per_s for one in self._rounds[name]),
                top1=self._rounds[name][-1].top1 if self._rounds[name] else (),
                note=self._notes[name],
            )
            for name in self.peers
        ]

    def idle_cores(self, over_s: float) -> dict[str, float]:
        """Measure how many cores each peer would burn between rounds, were it not stopped."""
        return {name: peer.idle_cores(over_s) for name, peer in self._running.items()}

    def _open(self, name: str) -> None:
        self._rounds[name], self._notes[name] = [], ""
        try:
            environment = environments.make(name, self.folder)
            peer = Peer(name=name, task=self.task, environment=environment)
            self._notes[name] = environment.note
            peer.start()
        except environments.NotInstalled as error:
            self._notes[name] = f"{name} could not be installed: {error}"
        except PeerFailed as error:
            self._notes[name] = str(error)
        else:
            self._running[name] = peer


def run(peer: str, task: Task, *, rounds: int, folder: Path = environments.CACHE) -> Ran:
    """Run one peer alone."""
    with Contest(peers=(peer,), task=task, folder=folder) as contest:
        for _ in range(rounds):
            contest.round()
        return contest.ran()[0]


@dataclass(slots=True, kw_only=True)
class Peer:
    """One peer's process, with all that it started."""

    name: str
    task: Task
    environment: Environment
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="im-peer-")
    )
    _process: subprocess.Popen[str] | None = None
    _lines: queue.Queue[str] = field(default_factory=queue.Queue)

    def start(self) -> None:
        """Start it, and stop it in its tracks once it is warm; raise PeerFailed."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def run(self) -> Round:
        """Run one round; raise PeerFailed."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it has ended, as its answer will say
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        ran = self._answer(ROUND_S)
        self._signal(signal.SIGSTOP)
        (seconds,) = ran["seconds"]
        return Round(images_per_s=ran["images"] / seconds, top1=tuple(ran["top1"]))

    def idle_cores(self, over_s: float) -> float:
        """Measure how many cores it burns between rounds, if it is left running."""
        assert self._process is not None
        self._signal(signal.SIGCONT)
        time.sleep(SETTLE_S)
        burnt = families.cores_burnt(self._process.pid, over_s)
        self._signal(signal.SIGSTOP)
        return burnt

    def close(self) -> None:
        """Ask it to end, and end whatever of it is left."""
        if self._process is not None and self._process.stdin is not None:
            family = families.of(self._process.pid)
            families.signal_all(family, signal.SIGCONT)
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            families.signal_all(family | families.of(self._process.pid), signal.SIGKILL)
            self._process.wait()
        self._folder.cleanup()

    @property
    def log(self) -> Path:
        """What it prints besides its answers."""
        return Path(self._folder.name, "log")

    def _start(self) -> None:
        told = Path(self._folder.name, "task.json")
        told.write_text(json.dumps(asdict(self.task)))
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(
                [self.environment.python, "-m", f"bench.peers.{self.name}", str(told)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True, cwd=ROOT, env=self._environ(),
                start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        self._answer(START_S)
        self._signal(signal.SIGSTOP)

    def _environ(self) -> Mapping[str, str]:
        recipe = environments.RECIPES[self.name]
        # What was chosen for imagemill is not to be another's burden.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "IMAGEMILL_"))}
        return {**kept, **recipe.environ}

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _answer(self, patience_s: float) -> dict[str, object]:
        try:
            line = self._lines.get(timeout=patience_s)
        except queue.Empty:
            raise PeerFailed(f"{self.name} gave no answer within {patience_s:.0f} s.") from None
        if not line:
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise PeerFailed(f"{self.name} ended: {said[-1] if said else 'it said nothing'}")
        return json.loads(line)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        families.signal_all(families.of(self._process.pid), number)
