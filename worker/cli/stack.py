"""Takes the settings. Gives the running stack in the foreground, until it is told to stop.

Knows nothing of its insides.
"""

import json
import os
import secrets
import signal
import socket
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from db import keys, migrate, session, workers
from worker import runtime, sizing
from worker.cli import output
from worker.client import Client, ClientError, Refused
from worker.settings import Settings, SettingsInvalid
from worker.stack import ROLES, Stack, StackError

#: Seconds in which intake and a classify worker must come up: importing torch and loading a model takes most of it.
READY_S = 120.0
#: A question that only a living intake answers.
NOBODY = "00000000-0000-0000-0000-000000000000"
#: The file of the home folder that holds the key `up` has made.
KEY = "http.key"


def up(asked: Namespace, settings: Settings) -> int:
    """Run the stack until Ctrl-C or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, *ends()):
        signal.signal(number, lambda *_: stop.set())
    settings = settings.or_here()
    if not settings.flower_basic_auth:
        settings = replace(settings, flower_basic_auth=f"imagemill:{secrets.token_urlsafe(12)}")
    _refuse_missing(settings.allowed_roots)
    if not asked.no_flower:
        _refuse_taken(settings.flower_port, "Flower", "FLOWER_PORT, or give --no-flower")
        settings = replace(settings, flower_url=settings.flower_url or f"http://127.0.0.1:{settings.flower_port}")
    if not asked.no_http:
        _refuse_taken(settings.http_port, "HTTP", "HTTP_PORT, or give --no-http")
    console = output.console()
    with running(settings, say=console.print, stop=stop) as stack:
        if not asked.no_flower:
            stack.start("flower", "flower")
        if not asked.no_http:
            _make_first_key(settings)
            stack.start("http", "serve")
        _say_up(asked, settings, stack)
        while not stop.wait(1.0):
            for part in stack.fallen():
                console.print(
                    f"[yellow]{part.name} ended and is started again; see {stack.logs / part.name}.log[/yellow]"
                )
                stack.restart(part)
        console.print("Stopping: running shards are finished first ...")
    console.print("Stopped.")
    return 0


def _refuse_missing(roots: Sequence[str]) -> None:
    """Raise `SettingsInvalid` for a root that names no place, or no folder of this machine: references would fail."""
    from pipeline import references

    try:
        references.Roots.parse(roots)
    except ValueError as wrong:
        raise SettingsInvalid(f"IMAGEMILL_ALLOWED_ROOTS makes no sense. {wrong}") from None
    for root in roots:
        if not ("://" in root or Path(root).is_dir()):
            raise SettingsInvalid(
                f"IMAGEMILL_ALLOWED_ROOTS names {root!r}, which is no folder here; separate folders by commas."
            )


def _make_first_key(settings: Settings) -> None:
    """Make a key for everything where there is none at all, and keep it in the home folder, for its owner alone."""
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        if keys.keys(transaction):
            return
        secret = keys.draw()
        keys.add(transaction, secret, name="up", scopes=keys.SCOPES)
        # Within the transaction: a key that could not be kept was never made.
        file = settings.home / KEY
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as kept:
            kept.write(f"{secret}\n")


def _refuse_taken(port: int, who: str, otherwise: str) -> None:
    """Raise `StackError` if nobody else could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise StackError(f"Port {port} is taken, where {who} would listen: set IMAGEMILL_{otherwise}.") from None


def ends() -> list[signal.Signals]:
    """Name what ends a command beside Ctrl-C: SIGTERM, and a terminal that is closed, unless `nohup` forbade it."""
    hangs_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGHUP] if hangs_up else [signal.SIGTERM]


@contextmanager
def running(
    settings: Settings,
    *,
    say: Callable[[str], object],
    stop: threading.Event | None = None,
) -> Iterator[Stack]:
    """Start what the pipeline needs and wait until it takes work; stop all of it at the end, whatever happened."""
    settings = settings.shared_out()
    settings.home.mkdir(parents=True, exist_ok=True)
    with Stack(settings=settings) as stack:
        if settings.is_embedded:
            stack.start_redis()
        migrate.upgrade(settings.database_url)
        for role in ROLES:
            stack.start(role, *(("beat",) if role == "beat" else ("worker", role)))
        for number in range(2, settings.processes + 1):
            stack.start(f"classify-{number}", "worker", "classify", "--number", str(number))
        say("Starting intake, classify, learn, upkeep and beat ...")
        _await_ready(settings, stack, stop or threading.Event())
        yield stack


def _await_ready(settings: Settings, stack: Stack, stop: threading.Event) -> None:
    give_up_s = time.monotonic() + READY_S
    with runtime.ledger(settings) as sessions, Client(settings.broker_url, timeout_s=2.0) as client:
        while not stop.is_set():
            if fallen := stack.fallen():
                raise StackError(f"{fallen[0].name} did not start: {_complaint(stack.logs / f'{fallen[0].name}.log')}")
            with session.reading(sessions) as reading:
                roles = [worker.role for worker in workers.list_alive(reading, within_s=sizing.ALIVE_S)]
            if "intake" in roles and roles.count("classify") >= settings.processes and _answers(client):
                return
            if time.monotonic() > give_up_s:
                raise StackError(f"The workers were not ready within {READY_S:.0f} s; see {stack.logs}.")
            stop.wait(0.1)


def _answers(client: Client) -> bool:
    try:
        client.status(NOBODY)
    except Refused:
        return True
    except ClientError:
        return False
    return True


def _complaint(log: Path) -> str:
    """Find what a part said before it ended."""
    lines = log.read_text(errors="replace").strip().splitlines()
    complaints = [line for line in map(_read, lines) if " ERROR " in line or line.startswith("imagemill: ")]
    return complaints[-1].removeprefix("imagemill: ") if complaints else f"see {log}"


def _read(line: str) -> str:
    """Give a line of the log as text, whichever form it was written in."""
    try:
        told = json.loads(line)
    except ValueError:
        return line
    if not isinstance(told, dict) or not {"time", "level", "logger", "message"} <= told.keys():
        return line
    return f"{told['time']} {told['level']} {told['logger']}: {told['message']}"


def _say_up(asked: Namespace, settings: Settings, stack: Stack) -> None:
    facts = {
        "broker": output.without_password(settings.broker_url),
        "ledger": output.without_password(settings.database_url),
        "store": settings.store,
        "allowed roots": ", ".join(settings.allowed_roots),
        "models": ", ".join(settings.models),
        "logs": str(stack.logs),
    }
    if not asked.no_flower:
        user, _, password = settings.flower_basic_auth.partition(":")
        facts["flower"] = f"http://127.0.0.1:{settings.flower_port} (user {user}, password {password})"
    if not asked.no_http:
        key = settings.home / KEY
        opens = f", key in {key}" if key.exists() else ""
        facts["http"] = f"http://127.0.0.1:{settings.http_port} (pages at /console, API at /docs{opens})"
    if asked.json:
        output.as_json(facts)
        return
    console = output.console()
    console.print("[bold green]imagemill is up[/bold green]; Ctrl-C stops it.")
    for name, value in facts.items():
        console.print(f"  {name:14} {output.plain(value)}", soft_wrap=True)
    console.print("In another terminal: imagemill status, imagemill submit --wait photos/")
