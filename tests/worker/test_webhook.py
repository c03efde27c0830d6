"""The webhook takes Label Studio's payloads from those who show the token, and says 200 once intake has them."""

import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.garbage import damaged_bytes
from tests.properties import tried
from tests.worker.test_label_studio import annotation, choice, payload, task
from worker import webhook
from worker.client import BrokerUnreachable, ClientError, NotAcknowledged, Refused
from worker.label_studio import Project
from worker.learning_messages import LabelledImage, LabelsReceipt, RefusedLabel

TOKEN = "0123456789abcdef"
SHOWN = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Clerk:
    """Stands in for the client: intake and its broker are the system ring's, and failures come when asked for."""

    given: list[tuple[str, LabelledImage]] = field(default_factory=list)
    fails_with: ClientError | None = None
    refuses: str = ""

    def label_items(self, images: Sequence[LabelledImage], *, model: str) -> LabelsReceipt:
        if self.fails_with:
            raise self.fails_with
        self.given += [(model, image) for image in images]
        bad = [one for one in images if one.label == self.refuses]
        refused = [
            RefusedLabel(position=n, reference=one.reference, label=one.label, kind="missing", message="No such file.")
            for n, one in enumerate(bad)
        ]
        return LabelsReceipt(model=model, num_added=len(images) - len(bad), refused=tuple(refused))

    def ping(self) -> None:
        if self.fails_with:
            raise self.fails_with


@pytest.fixture
def clerk() -> Clerk:
    """Who takes the labels."""
    return Clerk()


@pytest.fixture
def port(clerk: Clerk) -> Iterator[int]:
    """A webhook that listens."""
    door = webhook.Door(client=clerk, token=TOKEN, project=Project())
    with webhook.Server(("127.0.0.1", 0), door) as server:
        loop = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        loop.start()
        yield server.server_port
        server.shutdown()
        loop.join()


def call(
    port: int, method: str = "POST", path: str = "/label-studio/cats", body: object = None, **headers: str
) -> tuple[int, dict[str, object]]:
    """Make one call and read its answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, headers or SHOWN)
        answer = connection.getresponse()
        assert answer.getheader("Content-Type") == "application/json; charset=utf-8"
        return answer.status, json.loads(answer.read())


def test_labels_are_handed_to_intake_before_the_answer(port: int, clerk: Clerk) -> None:
    status, body = call(port, body=payload())
    assert (status, body["num_added"], body["refused"]) == (200, 1, [])
    [(model, image)] = clerk.given
    assert (model, image.label, image.reference, image.source) == ("cats", "cat", "s3://photos/1.jpg", "label-studio")


@pytest.mark.parametrize(
    ("path", "model"),
    [("/label-studio", "default"), ("/label-studio/", "default"), ("/label-studio/a.b-1/?choices=class", "a.b-1")],
)
def test_the_path_names_the_model(port: int, clerk: Clerk, path: str, model: str) -> None:
    assert call(port, path=path, body=payload())[0] == 200
    assert clerk.given[0][0] == model


def test_the_query_says_how_tasks_are_read(port: int, clerk: Clerk) -> None:
    given = payload(
        annotation=annotation(choice("cat"), choice("sharp", name="quality")),
        task=task() | {"data": {"left": "s3://b/l.jpg", "right": "s3://b/r.jpg"}},
    )
    assert call(port, body=given)[0] == 422
    assert call(port, path="/label-studio/cats?image=right&choices=quality", body=given)[0] == 200
    [(_, image)] = clerk.given
    assert (image.reference, image.label) == ("s3://b/r.jpg", "sharp")


def test_what_carries_no_label_is_acknowledged_without_intake(port: int, clerk: Clerk) -> None:
    status, body = call(port, body={"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 17}]})
    assert (status, body["note"][:37]) == (200, "Labels of deleted annotations are kep")
    assert clerk.given == []


def test_a_refused_label_is_named_and_costs_its_neighbours_nothing(
    port: int, clerk: Clerk, caplog: pytest.LogCaptureFixture
) -> None:
    clerk.refuses = "dog"
    many = [annotation(choice("cat")), annotation(choice("dog"), id=18), annotation(choice("cat", "dog"), id=19)]
    with caplog.at_level(logging.WARNING):
        status, body = call(port, body=payload("ANNOTATIONS_CREATED", annotation=many))
    assert (status, body["num_added"]) == (200, 1)
    assert [one["message"] for one in body["refused"]] == [
        "No such file.",
        "Annotation 19: it has 2 choices; an image has one label.",
    ]
    assert [record.message for record in caplog.records] == [
        f"a label of cats was refused: {one['kind']}" for one in body["refused"]
    ]


def test_labels_that_are_all_refused_are_a_failure_with_its_reason(port: int, clerk: Clerk) -> None:
    clerk.refuses = "cat"
    status, body = call(port, body=payload())
    assert (status, body["error"], body["num_added"]) == (422, "No such file.", 0)


INTAKE = {
    "refuses": (Refused("invalid", "No."), 422, "No."),
    "is away": (NotAcknowledged("Intake did not answer."), 503, "Intake did not answer."),
    "has no broker": (BrokerUnreachable("No Redis answers."), 503, "No Redis answers."),
    "fails": (ClientError("Intake failed on this request."), 503, "Intake failed on this request."),
}


@pytest.mark.parametrize(("wrong", "status", "said"), INTAKE.values(), ids=INTAKE)
def test_an_intake_that_does_not_acknowledge_is_never_a_success(
    port: int, clerk: Clerk, wrong: ClientError, status: int, said: str
) -> None:
    clerk.fails_with = wrong
    assert call(port, body=payload()) == (status, {"error": said})


TOKENS = {
    "none": {"Accept": "*/*"},
    "empty": {"Authorization": ""},
    "another": {"Authorization": f"Bearer {TOKEN[:-1]}x"},
    "a beginning": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "bare": {"Authorization": TOKEN},
    "another scheme": {"Authorization": f"Basic {TOKEN}"},
    "not ASCII": {"Authorization": "Bearer größe"},
}


@pytest.mark.parametrize("shown", TOKENS.values(), ids=TOKENS)
def test_nobody_is_heard_without_the_token(port: int, clerk: Clerk, shown: dict[str, str]) -> None:
    status, body = call(port, body=payload(), **shown)
    assert (status, body) == (401, {"error": "Show the token: a header `Authorization: Bearer TOKEN`."})
    assert clerk.given == []


BODIES = {
    "not JSON": (b"{", 400, "The payload is not JSON."),
    "not UTF-8": (b"\xff\xfe", 400, "The payload is not JSON."),
    "nested beyond reading": (b"[" * 100_000, 400, "The payload is not JSON."),
    "empty": (b"", 400, "The payload is not JSON."),
    "no payload": ({"action": "ANNOTATION_CREATED"}, 400, "The payload has no `annotation`; turn on Send payload"),
    "too large": (bytes(webhook.MAX_BODY + 1), 413, "A payload has at most 8388608 bytes."),
}


@pytest.mark.parametrize(("body", "status", "said"), BODIES.values(), ids=BODIES)
def test_a_body_that_cannot_be_read_is_one_sentence(port: int, body: object, status: int, said: str) -> None:
    got, answer = call(port, body=body)
    assert got == status
    assert answer["error"].startswith(said)


def test_a_body_of_unknown_length_is_refused(port: int) -> None:
    status, body = call(port, **SHOWN, **{"Content-Length": "many"})
    assert (status, body) == (411, {"error": "Say how long the payload is: a Content-Length."})


PLACES = {
    "elsewhere": ("POST", "/", 404),
    "a name that is longer": ("POST", "/label-studios", 404),
    "no model's name": ("POST", "/label-studio/Cats!", 404),
    "below a model": ("POST", "/label-studio/cats/more", 404),
    "an unknown option": ("POST", "/label-studio/cats?split=test", 400),
    "not to be read": ("GET", "/label-studio", 404),
}


@pytest.mark.parametrize(("method", "path", "status"), PLACES.values(), ids=PLACES)
def test_other_places_are_refused(port: int, clerk: Clerk, method: str, path: str, status: int) -> None:
    assert call(port, method, path, payload())[0] == status
    assert clerk.given == []


def test_the_health_check_tells_whether_labels_could_be_handed_on(port: int, clerk: Clerk) -> None:
    assert call(port, "GET", "/healthcheck") == (200, {"status": "ok"})
    clerk.fails_with = BrokerUnreachable("No Redis answers at redis://10.0.0.7:6379/0.")
    assert call(port, "GET", "/healthcheck") == (503, {"error": "The queue does not answer."})


def test_a_caller_that_says_nothing_or_goes_away_keeps_nobody_else_waiting(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook._Handler, "timeout", 0.3)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * webhook.MAX_CALLERS)]
    half = socket.create_connection(("127.0.0.1", port))
    head = f"POST /label-studio HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 99\r\n\r\n"
    half.sendall(head.encode() + b"{")
    half.close()
    assert call(port, body=payload())[0] == 200
    for one in silent:
        one.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_bug_is_logged_and_ends_that_call_alone(port: int, clerk: Clerk, caplog: pytest.LogCaptureFixture) -> None:
    clerk.fails_with = KeyError("bug")  # type: ignore[assignment]
    with pytest.raises(http.client.RemoteDisconnected):
        call(port, body=payload())
    clerk.fails_with = None
    assert call(port, body=payload())[0] == 200
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == ["a call failed"]


def test_many_callers_are_served_at_once(port: int, clerk: Clerk) -> None:
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(call(port, body=payload())[0])) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 40
    assert len(clerk.given) == 40


ODD_CALLS = {
    "a length without end": (b"POST /label-studio HTTP/1.0", b"Content-Length: " + b"9" * 5000, b"", 411),
    "no length": (b"POST /label-studio HTTP/1.0", b"", b"", 411),
    "a length that is none": (b"POST /label-studio HTTP/1.0", b"Content-Length: -1", b"", 411),
    "a path no parser takes": (b"POST //[ HTTP/1.0", b"Content-Length: 2", b"{}", 404),
    "a question no parser takes": (b"GET //[ HTTP/1.0", b"", b"", 404),
    "half a character": (b"POST /label-studio HTTP/1.0", b"Content-Length: 20", b'{"action": "\\udc00"}', 200),
    "half a character in the query": (b"POST /label-studio?%ed%a0%80=1 HTTP/1.0", b"Content-Length: 2", b"{}", 400),
    "brackets without end": (b"POST /label-studio HTTP/1.0", b"Content-Length: 9000", b"[" * 9000, 400),
}  # fmt: skip


@pytest.mark.parametrize(("line", "header", "body", "status"), ODD_CALLS.values(), ids=ODD_CALLS)
def test_whatever_is_sent_is_answered_with_a_sentence(
    port: int, caplog: pytest.LogCaptureFixture, line: bytes, header: bytes, body: bytes, status: int
) -> None:
    shown = f"Authorization: Bearer {TOKEN}".encode()
    answer = say(port, b"\r\n".join([line, shown, *([header] if header else []), b"", body]))
    head, _, told = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert {"error", "note"} & json.loads(told).keys()
    assert not caplog.records or "a call failed" not in caplog.text


def say(port: int, call: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
        caller.sendall(call)
        caller.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: caller.recv(1 << 16), b""))


CALL = (
    b"POST /label-studio/cats?image=image HTTP/1.0\r\nAuthorization: Bearer 0123456789abcdef\r\n"
    b"Content-Type: application/json\r\nContent-Length: 26\r\n\r\n" + b'{"action": "TASK_CREATED"}'
)


@tried(100)
@given(call=damaged_bytes(st.just(CALL)))
def test_a_damaged_call_costs_the_next_one_nothing(port: int, caplog: pytest.LogCaptureFixture, call: bytes) -> None:
    with suppress(ConnectionError):  # it may hang up on what is not HTTP
        say(port, call)
    assert "a call failed" not in caplog.text
    assert say(port, CALL).startswith(b"HTTP/1.0 200 ")
