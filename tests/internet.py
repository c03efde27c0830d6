"""A pretend Internet: names, addresses and the ways to them, all of which end on loopback.

Takes, for each name, what a name server answers, time after time; for each address and port, the loopback port behind
it. It stands below the sockets of a process, so that whoever fetches is tested whole, with nothing to let it in. Any
other address but this machine's own cannot be reached. Standard library only: a worker imports it as `sitecustomize`.
"""

import errno
import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: The file that a worker process reads its Internet from.
FILE = "IMAGEMILL_TEST_INTERNET"

LOOK_UP, CONNECT = socket.getaddrinfo, socket.socket.connect


class Internet:
    """What this process finds behind names and addresses."""

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]], routes: Mapping[str, int]) -> None:
        #: Name -> the addresses of its first answer, of its second, ...; the last answer stays.
        self.names = dict(names)
        #: "ADDRESS PORT" -> port on 127.0.0.1.
        self.routes = dict(routes)
        self.num_asked: Counter[str] = Counter()

    def look_up(self, host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        """Stand in for `socket.getaddrinfo`; numbers in any spelling are read as it reads them."""
        if host not in self.names:
            return LOOK_UP(host, port, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)
        answers = self.names[host]
        answer = answers[min(self.num_asked[host], len(answers) - 1)]
        self.num_asked[host] += 1
        return [row for address in answer for row in LOOK_UP(address, port, type=socket.SOCK_STREAM)]

    def connect(self, connection: socket.socket, address: Any) -> None:
        """Stand in for `socket.socket.connect`; what is private leads where a canary may sit, or nowhere."""
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            address = self._behind(connection.family, address)
        CONNECT(connection, address)

    def install(self, put: Callable[[Any, str, Any], None] = setattr) -> None:
        """Put it below this process's sockets."""
        put(socket, "getaddrinfo", self.look_up)

        def connect(connection: socket.socket, address: Any) -> None:
            self.connect(connection, address)

        put(socket.socket, "connect", connect)

    def _behind(self, family: int, address: Any) -> Any:
        host, port = address[:2]
        behind = self.routes.get(f"{host} {port}")
        if behind is not None:
            return ("127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1", behind)
        if host.startswith("127.") or host in ("::1", "localhost"):
            return address
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


if __name__ == "sitecustomize":
    Internet(**json.loads(Path(os.environ[FILE]).read_text())).install()
