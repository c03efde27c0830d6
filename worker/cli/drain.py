"""Takes the name of a worker, a host, or all. Gives them the order to take no more work, or to take it again.

Knows nothing of the broker: workers take no orders from it, and read theirs in the ledger.
"""

import getpass
import time
from argparse import Namespace
from collections.abc import Collection

from sqlalchemy.orm import Session, sessionmaker

from db import drains, session, workers
from worker import messages, runtime, sizing
from worker.cli import output
from worker.settings import Settings

#: seconds between two looks at who is still busy
POLL_S = 0.5


def drain(asked: Namespace, settings: Settings) -> int:
    """Ask workers to finish what they hold and take no more; with --wait gives 1 unless all did so in time."""
    with runtime.ledger(settings) as sessions:
        with session.transaction(sessions) as transaction:
            chosen = _chosen(transaction, asked)
            drains.ask(transaction, _places(chosen), who=getpass.getuser(), reason=asked.reason)
        names = [one.name for one in chosen if one.parent_pid is not None]
        old = [one.name for one in chosen if one.parent_pid is None]
        left = _await_drained(sessions, names, asked.timeout) if asked.wait else _undrained(sessions, names)
    if asked.json:
        output.as_json({"asked": names, "busy": left, "cannot_drain": old})
    else:
        _say(asked, names, left, old)
    return 1 if old or (asked.wait and left) else 0


def undrain(asked: Namespace, settings: Settings) -> int:
    """Let workers take work again."""
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        chosen = [one for one in _chosen(transaction, asked) if one.drain]
        drains.take_back(transaction, _places(chosen))
    if asked.json:
        output.as_json({"asked": [one.name for one in chosen]})
    else:
        print("\n".join(f"{one.name} takes work again." for one in chosen) or "No such worker was being drained.")
    return 0


def _chosen(transaction: Session, asked: Namespace) -> list[workers.Alive]:
    """Find the workers that are meant. Raises `MessageInvalid` if there is none, or it is not said which."""
    if bool(asked.worker) + bool(asked.host) + asked.all != 1:
        raise messages.MessageInvalid("Say which: one worker by its name in `imagemill status`, --host HOST, or --all.")
    found = [
        one
        for one in workers.list_alive(transaction, within_s=sizing.ALIVE_S)
        # beat has no process of its own here: it takes no work
        if one.pid and (asked.all or one.name == asked.worker or one.host == asked.host)
        if asked.role in (None, one.role)
    ]
    if not found:
        raise messages.MessageInvalid("No such worker was heard of lately; `imagemill status` lists those that were.")
    return found


def _places(chosen: Collection[workers.Alive]) -> list[drains.Place]:
    return sorted({(one.host, one.parent_pid) for one in chosen if one.parent_pid is not None})


def _undrained(sessions: sessionmaker[Session], names: Collection[str]) -> list[str]:
    """Name those of the workers that live and hold something, or do not know yet what is asked."""
    with session.reading(sessions) as reading:
        alive = workers.list_alive(reading, within_s=sizing.ALIVE_S)
    return [one.name for one in alive if one.name in names and not (one.drain and one.drain.drained_at_s)]


def _await_drained(sessions: sessionmaker[Session], names: Collection[str], timeout_s: float) -> list[str]:
    give_up_s = time.monotonic() + timeout_s
    with output.progress("drained", len(names)) as show:
        while (left := _undrained(sessions, names)) and time.monotonic() < give_up_s:
            show(len(names) - len(left))
            time.sleep(POLL_S)
    return left


def _say(asked: Namespace, names: Collection[str], left: Collection[str], old: Collection[str]) -> None:
    for name in names:
        print(f"{name} is {'draining' if name in left else 'drained'}.")
    for name in old:
        print(f"{name} is of an older release and cannot be drained: stop it, and it gives back what it holds.")
    if asked.wait and left:
        print(f"{len(left)} of {len(names)} were not drained within {asked.timeout:.0f} s.")
    print("They take work again with `imagemill undrain`, or when they are started anew.")
