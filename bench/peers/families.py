"""Takes a process. Gives it with all that it started, to be stopped, continued, ended or measured together.

Knows nothing of what they do. A process is known by its id and its start, so that a reused id is nobody's.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process, as /proc knows it."""

    pid: int
    parent: int
    #: the session's leader
    session: int
    #: seconds of cores it has burnt, in clock ticks
    cpu_ticks: int
    #: in clock ticks since the machine started
    started: int

    @property
    def identity(self) -> tuple[int, int]:
        """What no later process shares."""
        return self.pid, self.started


#: processes by `identity`
Family = frozenset[tuple[int, int]]


def of(pid: int) -> Family:
    """Find a process, its descendants, and who else is in their sessions: an orphan loses its parent, not those."""
    known = {one.pid: one for one in _all()}
    if pid not in known:
        return frozenset(one.identity for one in known.values() if one.session == pid)
    inside, num_before = {pid}, 0
    while len(inside) > num_before:
        num_before = len(inside)
        led = inside & {one.session for one in known.values()}
        inside |= {one.pid for one in known.values() if one.parent in inside or one.session in led}
    return frozenset(known[each].identity for each in inside)


def signal_all(family: Iterable[tuple[int, int]], number: signal.Signals) -> None:
    """Send a signal to those that still run."""
    running = {one.identity for one in _all()}
    for identity in family:
        if identity in running:
            with suppress(ProcessLookupError):
                os.kill(identity[0], number)


def cores_burnt(pid: int, over_s: float) -> float:
    """Watch a process's family for some seconds; give the cores it kept busy, of those who lived through them."""
    family = of(pid)
    before, began_s = _cpu_ticks(family), time.monotonic()
    time.sleep(over_s)
    after, took_s = _cpu_ticks(family), time.monotonic() - began_s
    ticks = sum(after[each] - before[each] for each in after.keys() & before.keys())
    return ticks / os.sysconf("SC_CLK_TCK") / took_s


def _cpu_ticks(family: Family) -> dict[tuple[int, int], int]:
    return {one.identity: one.cpu_ticks for one in _all() if one.identity in family}


def _all() -> list[Process]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has ended meanwhile
                found.append(_read(folder))
    return found


def _read(folder: Path) -> Process:
    # The name, in brackets, may hold anything; proc(5) numbers the fields behind it from 3.
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return Process(
        pid=int(folder.name),
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        started=int(fields[19]),
    )
