"""Takes the app. Gives what its Redis tells of itself: version, policy, persistence, rights, clock.

Knows nothing of queues. It asks only what it may: before Redis 7 a named user is not tried at a worker's start, for
what is refused stands in the log of Redis as an attack would.
"""

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.doctor import addresses
from worker.doctor.findings import Finding, ok, unknown, unsafe, warning
from worker.doctor.packages import numbers

#: branch -> its first release that mends CVE-2026-81934 and what came before it
FLOORS: dict[tuple[int, ...], tuple[int, ...]] = {
    (6, 2): (6, 2, 24), (7, 2): (7, 2, 16), (7, 4): (7, 4, 11), (8, 2): (8, 2, 9), (8, 4): (8, 4, 6),
    (8, 6): (8, 6, 6), (8, 8): (8, 8, 2), (8, 10): (8, 10, 1),
}  # fmt: skip
#: what nobody needs who sends and takes messages
DANGEROUS = (("FLUSHALL",), ("CONFIG", "SET", "maxmemory", "1"), ("KEYS", "*"), ("SHUTDOWN",), ("ACL", "LIST"))
#: asks Redis 7 whether we may, without doing it and without a line in its log
MAY = "return redis.acl_check_cmd(unpack(ARGV)) and 1 or 0"
#: policies that take away what has no time to live, such as a queue
EVICTING = "allkeys-"
#: seconds for one answer
PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Redis, and how we reach it."""

    client: Any
    version: tuple[int, ...]
    #: of the server; Valkey counts otherwise
    name: str
    #: whom we are signed in as
    user: str
    #: empty where it is reached by a socket
    host: str
    port: int
    #: file of the socket; empty where it is reached over the network
    socket: str

    @property
    def tells(self) -> bool:
        """Whether it tells what we may do without our trying."""
        return self.version >= (7, 0)

    @property
    def spelled(self) -> str:
        """Its name and version."""
        return f"{self.name.capitalize()} {'.'.join(map(str, self.version))}".rstrip()


@contextmanager
def connected(app: Celery) -> Iterator[Server]:
    """Connect as the workers do. Raises what kombu and redis raise where nobody answers."""
    with app.connection_for_read() as connection:
        client = connection.default_channel.client
        hello = _hello(client)
        how = client.connection_pool.connection_kwargs
        yield Server(
            client=client,
            version=numbers(hello["version"]),
            name=hello["server"],
            user=how.get("username") or "default",
            host=how.get("host") or "",
            port=how.get("port") or 0,
            socket=how.get("path") or "",
        )


def policy(server: Server, *, tries: bool) -> Iterator[Finding]:
    """Look at what Redis does when it is full, and whether it keeps its queue on disk.

    `tries` asks even where it cannot be known beforehand whether we may.
    """
    told = _info(server, tries=tries)
    if told is None:
        yield unknown(
            "redis policy",
            f"Redis keeps its configuration from user {server.user}, as it should.",
            mend="as its administrator: CONFIG GET maxmemory-policy (noeviction) and CONFIG GET appendonly (yes)",
        )
        return
    yield _eviction(str(told.get("maxmemory_policy")))
    if told.get("aof_enabled"):
        yield ok("redis persistence", "Redis appends its queue to disk.")
    else:
        yield warning(
            "redis persistence",
            "Redis keeps its queue in memory alone.",
            why="after its restart every job waits for the sweep, which is slower than a bell",
            mend="start it with appendonly yes and appendfsync everysec",
        )


def _eviction(policy: str) -> Finding:
    if policy == "noeviction":
        return ok("redis policy", "Redis evicts nothing.")
    mend = "CONFIG SET maxmemory-policy noeviction, and in redis.conf"
    if policy.startswith(EVICTING):
        return unsafe(
            "redis policy",
            f"Redis evicts keys when it is full (maxmemory-policy {policy}).",
            why="a queue is a key: all messages in it would be gone at once, without a word",
            mend=mend,
        )
    return warning(
        "redis policy",
        f"Redis evicts keys with a time to live when it is full (maxmemory-policy {policy}).",
        why="answers to callers would be gone before they are read; queues stay",
        mend=mend,
    )


def version(server: Server) -> Finding:
    """Compare the server's version with the floor of its branch."""
    subject, private = "redis version", bool(server.socket)
    if server.name != "redis":
        return unknown(subject, f"{server.spelled} counts its versions otherwise.", mend="read its own advisories")
    floor = FLOORS.get(server.version[:2])
    if floor is None and server.version > max(FLOORS.values()):
        return unknown(subject, f"{server.spelled} is newer than this check.", mend="read its own advisories")
    if floor and server.version >= floor:
        return ok(subject, f"{server.spelled}.")
    wanted = f"{'.'.join(map(str, floor))} or newer" if floor else "7.4.11, 8.2.9 or newer, for its branch has ended"
    why = "who reaches it may run code in it (CVE-2026-81934, CVE-2025-49844)"
    if private:
        return warning(
            subject,
            f"{server.spelled} has known holes, on a private socket.",
            why=f"{why}: here, this machine's own user alone",
            mend=f"for production run a Redis of its own, {wanted} (docs/deploy.md)",
        )
    return unsafe(
        subject,
        f"{server.spelled} has known holes, and listens on the network.",
        why=why,
        mend=f"run {wanted}; a distribution may have mended its own build: then its package's changelog says so",
    )


def access(server: Server) -> Iterator[Finding]:
    """Look at who may come in, and what we may do that we need not."""
    if server.socket:
        yield _socket(Path(server.socket))
        return
    if server.host:
        yield _strangers(server)
    yield _rights(server)


def _socket(file: Path) -> Finding:
    if file.stat().st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        return warning(
            "redis access",
            f"Other users of this machine may write to {file}.",
            why="whoever does may forge or take away messages",
            mend="start Redis with unixsocketperm 700",
        )
    return ok("redis access", "Redis listens on a private socket.")


def _strangers(server: Server) -> Finding:
    open_at = [host for host in addresses.beside(server.host) if _lets_in(host, server)]
    far = [host for host in open_at if not addresses.is_loopback(host)]
    mend = "give the default user a password or turn it off, and sign in with a user of its own (docs/deploy.md)"
    if far:
        return unsafe(
            "redis access",
            f"Redis lets anybody in at {far[0]}:{server.port}, without a password.",
            why="whoever reaches it may forge, read and delete messages, and run code on its host",
            mend=mend,
        )
    if open_at:
        return warning(
            "redis access",
            f"Redis lets any user of this machine in at {open_at[0]}:{server.port}, without a password.",
            why="whoever does may forge or take away messages",
            mend=mend,
        )
    return ok("redis access", "Redis lets nobody in without a password.")


def _lets_in(host: str, server: Server) -> bool:
    is_encrypted = issubclass(server.client.connection_pool.connection_class, redis.SSLConnection)
    stranger = redis.Redis(
        host=host,
        port=server.port,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        socket_timeout=PATIENCE_S,
        socket_connect_timeout=PATIENCE_S,
        ssl=is_encrypted,
        ssl_cert_reqs="none",  # who it is was proved when we signed in
        ssl_check_hostname=False,
    )
    try:
        return bool(stranger.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        stranger.close()


def _rights(server: Server) -> Finding:
    allowed = [command for command in DANGEROUS if _may(server, command, tries=command == DANGEROUS[-1])]
    if allowed:
        named = ", ".join(" ".join(command[:2]) if len(command) > 1 else command[0] for command in allowed)
        return warning(
            "redis rights",
            f"User {server.user} may do what no worker needs: {named}.",
            why="one leaked broker URL empties the queue, or takes the server over",
            mend="sign in with a user of its own and few rights (docs/deploy.md, `redis_acl`)",
        )
    return ok("redis rights", f"User {server.user} may do nothing dangerous.")


def _may(server: Server, command: Sequence[str], *, tries: bool) -> bool:
    """Tell whether we may run a command; before Redis 7 by running it if `tries`, else it is taken as forbidden."""
    if server.tells:
        return _asked(lambda: bool(server.client.eval(MAY, 0, *command))) or False
    return tries and _asked(lambda: server.client.execute_command(*command)) is not None


def _info(server: Server, *, tries: bool) -> Mapping[str, Any] | None:
    if not _may(server, ("INFO",), tries=tries or server.user == "default"):
        return None
    return {**server.client.info("memory"), **server.client.info("persistence")}


def _asked(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except redis.ResponseError:  # forbidden, or renamed by its owner
        return None


def clock_s(server: Server) -> float:
    """Read the server's clock, in epoch seconds."""
    seconds, micros = server.client.time()
    return float(seconds + micros / 1e6)


def _hello(client: Any) -> dict[str, str]:
    """Ask who is there; what knows no HELLO, or keeps it from us, tells nothing."""
    try:
        return _decoded(client.execute_command("HELLO"))
    except redis.ResponseError:
        return {"server": "a server that does not say", "version": ""}


def _decoded(hello: Any) -> dict[str, str]:
    pairs = hello.items() if isinstance(hello, Mapping) else zip(hello[::2], hello[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
