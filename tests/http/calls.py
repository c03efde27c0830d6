"""Takes a method, a path and a body. Gives the answer over a real socket. Knows nothing of what is tested."""

import http.client
import json
from dataclasses import dataclass, field
from typing import Any

#: Seconds an answer may take.
PATIENCE_S = 110.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The body, read as JSONL."""
        return [json.loads(line) for line in self.body.splitlines()]

    def problem(self) -> tuple[int, str]:
        """The status and the kind, once it has proved to be a problem as RFC 9457 has it."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        assert self.json["detail"].endswith(".")
        return self.status, self.json["kind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Calls the server, with a key if there is one."""

    port: int
    key: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Call once; a body that is no bytes is sent as JSON."""
        sent = dict(self.headers)
        if self.key:
            sent["Authorization"] = f"Bearer {self.key}"
        if body is not None and not isinstance(body, bytes):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body=body, headers=sent)
            got = connection.getresponse()
            return Answer(
                status=got.status, headers={name.lower(): value for name, value in got.getheaders()}, body=got.read()
            )
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self("POST", path, body, **headers)
