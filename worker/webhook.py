"""Takes what Label Studio's webhook sends over HTTP. Gives the labels to intake, and answers when they are recorded.

Knows nothing of SQL or images. Label Studio does not send again what failed, so a refusal is one sentence in both logs.
"""

import hmac
import json
import logging
import sys
import threading
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from worker import annotations, label_studio
from worker.client import Client, ClientError, Refused
from worker.messages import MODEL_NAME, MessageInvalid

log = logging.getLogger(__name__)

#: Bytes of one payload; it carries the project's settings, and the tasks of a bulk action.
MAX_BODY = 8 * 1024 * 1024
#: Digits of its length: what is longer is no length.
MAX_DIGITS = 18
#: Seconds that one read from, or write to, a caller may take.
SOCKET_S = 15.0
#: Callers served at once; others wait to be accepted.
MAX_CALLERS = 32
#: Where payloads are posted: below it, perhaps, the model's name.
PATH = "/label-studio"
HEALTH = "/healthcheck"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What a webhook works with."""

    client: Client
    #: What a caller must show as `Authorization: Bearer TOKEN`.
    token: str
    project: label_studio.Project


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a caller gets."""

    status: HTTPStatus
    body: dict[str, Any]


class CallRefused(Exception):
    """The call cannot be served; the sentence says why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves callers, each in a thread of its own, `MAX_CALLERS` at once."""

    #: `shutdown` and `server_close` wait for the callers that are being served.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], door: Door) -> None:
        self.door = door
        self._places = threading.BoundedSemaphore(MAX_CALLERS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Wait for a free place, then serve in a thread."""
        self._places.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve, and free the place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        """Say what went wrong with a caller: it went away, or there is a bug."""
        wrong = sys.exception()
        if isinstance(wrong, OSError):
            log.info("%s went away: %s", client_address[0], wrong)
        else:
            log.error("a call failed", exc_info=wrong)


def receive(door: Door, path: str, payload: object) -> Answer:
    """Hand a payload's labels to intake. Raises `CallRefused`, `MessageInvalid` and `ClientError`.

    The answer is 200 once intake has acknowledged, also where some labels were refused, or where there was nothing to
    record: Label Studio turns a webhook off that fails too often. It is 422 where every label was refused.
    """
    model, project = _asked(path, door.project)
    event = label_studio.event(payload, project)
    receipt = annotations.hand_over(door.client, model, event.rows)
    body = {**asdict(receipt), "refused": [asdict(one) for one in receipt.refused], "note": event.note}
    if receipt.refused and len(receipt.refused) == receipt.num_labels:
        return Answer(status=HTTPStatus.UNPROCESSABLE_ENTITY, body={"error": receipt.refused[0].message, **body})
    return Answer(status=HTTPStatus.OK, body=body)


def _asked(path: str, project: label_studio.Project) -> tuple[str, label_studio.Project]:
    """Read the model from the path, and how its project's tasks are read from the query."""
    where, _, asked = path.partition("?")  # no URL parser, which trips over some
    below, _, model = where.removeprefix(PATH).rstrip("/").partition("/")
    if not where.startswith(PATH) or below:
        raise CallRefused(HTTPStatus.NOT_FOUND, f"Post to {PATH} or {PATH}/MODEL.")
    if not MODEL_NAME.fullmatch(model or "default"):
        raise CallRefused(HTTPStatus.NOT_FOUND, "No model has such a name.")
    query = dict(parse_qsl(asked))
    if unknown := sorted(set(query) - {"image", "choices"}):
        raise MessageInvalid(f"Unknown in the query: {unknown[0][:80]}. Known: image, choices.")
    named = label_studio.Project(
        image=query.get("image", project.image),
        choices=query.get("choices", project.choices),
        local_files=project.local_files,
        uploads=project.uploads,
    )
    return model or "default", named


class _Handler(BaseHTTPRequestHandler):
    """Reads a call, has it served and writes the answer."""

    server: Server
    server_version, sys_version = "imagemill", ""
    timeout = SOCKET_S

    def do_POST(self) -> None:
        """Serve a payload."""
        try:
            answer = receive(self.server.door, self.path, self._payload())
        except CallRefused as refused:
            answer = _error(refused.status, refused)
        except MessageInvalid as wrong:
            answer = _error(HTTPStatus.BAD_REQUEST, wrong)
        except Refused as refused:
            answer = _error(HTTPStatus.UNPROCESSABLE_ENTITY, refused)
        except ClientError as away:
            answer = _error(HTTPStatus.SERVICE_UNAVAILABLE, away)
        self._write(answer)

    def do_GET(self) -> None:
        """Tell whether labels could be handed on now."""
        if self.path.partition("?")[0] != HEALTH:
            self._write(_error(HTTPStatus.NOT_FOUND, f"Ask for {HEALTH}, or post to {PATH}."))
            return
        try:
            self.server.door.client.ping()
        except ClientError as away:
            log.warning("unhealthy: %s", away)  # the broker's address is nobody's business
            self._write(_error(HTTPStatus.SERVICE_UNAVAILABLE, "The queue does not answer."))
        else:
            self._write(Answer(status=HTTPStatus.OK, body={"status": "ok"}))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Log a line that http.server writes."""
        log.info("%s: %s", self.address_string(), format % args)

    def _payload(self) -> Any:
        length = self._length()
        shown = self.headers.get("Authorization", "")
        if not hmac.compare_digest(shown.encode(), f"Bearer {self.server.door.token}".encode()):
            self._discard(length)
            raise CallRefused(HTTPStatus.UNAUTHORIZED, "Show the token: a header `Authorization: Bearer TOKEN`.")
        try:
            return json.loads(self.rfile.read(length))
        except (ValueError, RecursionError):
            raise MessageInvalid("The payload is not JSON.") from None

    def _length(self) -> int:
        given = self.headers.get("Content-Length", "")
        if not given.isdecimal() or len(given) > MAX_DIGITS:
            raise CallRefused(HTTPStatus.LENGTH_REQUIRED, "Say how long the payload is: a Content-Length.")
        if int(given) > MAX_BODY:
            self._discard(min(int(given), 2 * MAX_BODY))
            raise CallRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A payload has at most {MAX_BODY} bytes.")
        return int(given)

    def _discard(self, num_bytes: int) -> None:
        """Read what is not wanted: a caller that is still writing would not read the answer."""
        while num_bytes > 0 and (chunk := self.rfile.read(min(num_bytes, 1 << 16))):
            num_bytes -= len(chunk)

    def _write(self, answer: Answer) -> None:
        # A sentence may quote half a character of the payload, which no encoding has.
        body = json.dumps(answer.body, ensure_ascii=False).encode(errors="replace")
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)


def _error(status: HTTPStatus, what: object) -> Answer:
    return Answer(status=status, body={"error": str(what)})
