"""TLS in front of the tests' servers: the wheels' Redis and PostgreSQL are built without it.

Takes a certificate and a server's socket. Gives a port of the loopback that speaks TLS alone.
Knows nothing of what passes through.
"""

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: What PostgreSQL's clients ask first, in 8 bytes, and the answers: other encryption is refused, TLS may begin.
POSTGRES_ANSWERS = {bytes.fromhex("0000000804d21630"): b"N", bytes.fromhex("0000000804d2162f"): b"S"}


@contextmanager
def tunnel(certificate: Path, server: Path, *, is_postgres: bool = False) -> Iterator[int]:
    """Pass connections to `server`, a Unix socket, from whoever speaks TLS at the port that this gives."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    begin = _agree if is_postgres else _begin_at_once
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, context, server, begin), daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def _accept(
    listening: socket.socket, context: ssl.SSLContext, server: Path, begin: Callable[[socket.socket], None]
) -> None:
    with suppress(OSError):
        while True:
            caller, _ = listening.accept()
            threading.Thread(target=_serve, args=(caller, context, server, begin), daemon=True).start()


def _serve(
    caller: socket.socket, context: ssl.SSLContext, server: Path, begin: Callable[[socket.socket], None]
) -> None:
    """Serve one caller; who does not speak TLS, or does not trust us, is let go."""
    with suppress(OSError), caller:
        begin(caller)
        with context.wrap_socket(caller, server_side=True) as outside, socket.socket(socket.AF_UNIX) as inside:
            inside.connect(str(server))
            _pass(outside, inside)


def _pass(outside: ssl.SSLSocket, inside: socket.socket) -> None:
    """Pass what either says to the other, until one has said all. In one thread: TLS is one state for both ways."""
    other: dict[socket.socket, socket.socket] = {outside: inside, inside: outside}
    while True:
        ready = [outside] if outside.pending() else select.select([outside, inside], [], [])[0]
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            other[source].sendall(data)


def _begin_at_once(_: socket.socket) -> None:
    pass


def _agree(caller: socket.socket) -> None:
    answer = b""
    while answer != b"S":
        answer = POSTGRES_ANSWERS.get(caller.recv(8, socket.MSG_WAITALL), b"")
        if not answer:
            raise OSError("a caller without TLS")
        caller.sendall(answer)
