"""A receiver of callbacks: a real HTTPS server on loopback that keeps what was posted to it.

Takes what to answer, post after post. Gives the posts. Knows nothing of who posts.
"""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests import web

#: Any secret of 24 bytes or more.
SECRET = "whsec_" + base64.b64encode(b"not for anybody else's eyes").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)

    def is_signed_with(self, secret: str) -> bool:
        """Verify as a receiver does, by the specification alone."""
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        key = base64.b64decode(secret.removeprefix("whsec_"))
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        given = [one.split(",", 1) for one in self.headers["webhook-signature"].split(" ")]
        is_new = abs(time.time() - int(self.headers["webhook-timestamp"])) < 300
        return is_new and any(kind == "v1" and hmac.compare_digest(of, expected) for kind, of in given)


class Receiver(ThreadingHTTPServer):
    """Answers 204, or what `answers` holds for the next posts; each is (status, headers, seconds before it)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, authority: web.Authority, host: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._context = authority.context(host)
        self.is_over = threading.Event()
        self.posts: list[Post] = []
        self.answers: list[tuple[int, dict[str, str], float]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(20)  # in the thread of the request, as is the handshake
        with self._context.wrap_socket(request, server_side=True) as connection:
            super().finish_request(connection, client_address)

    def handle_error(self, *_: object) -> None:
        """Whoever posted went away, which some are here for."""


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answers = self.server.answers
        status, more, after_s = answers.pop(0) if answers else (204, {}, 0.0)
        self.server.posts.append(Post(path=self.path, headers=headers, body=body))
        self.server.is_over.wait(after_s)
        self.send_response(status)
        for name, value in ({"Content-Length": "0"} | more).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiving(authority: web.Authority, host: str) -> Iterator[Receiver]:
    """Run a receiver that proves to be `host`."""
    yield from web.running(Receiver(authority, host))
