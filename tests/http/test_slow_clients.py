"""A hundred slow clients cost a quick one nothing, and each other only their patience."""

import socket
import time
from contextlib import ExitStack

import pytest

from worker.web import limits, patience

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
#: seconds a quick request may take beside a hundred slow ones, on a busy machine
QUICK_S = 5.0


def begin(served, stack, text):
    client = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=20))
    client.sendall(text.encode())
    return client


def test_a_hundred_slow_clients_do_not_stop_a_quick_one(served, calls):
    auth = f"POST /v1/jobs?model=cats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {calls.key}\r\n"
    begun = (
        "GET /v1/jobs HTTP/1.1\r\nHo",  # half a head
        f"{auth}Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{{",  # the beginning of a body
        f"{auth}Content-Type: application/jsonl\r\nContent-Length: 500\r\n\r\n",  # no line of an upload
        "",
    )
    with ExitStack() as stack:
        for number in range(100):
            begin(served, stack, begun[number % len(begun)])
        began_s = time.monotonic()
        accepted = calls.post("/v1/jobs", {"model": "cats", "items": ["/1"]})
        assert accepted.status == 202
        assert calls.get(f"/v1/jobs/{accepted.json['id']}").status == 200
        assert time.monotonic() - began_s < QUICK_S
        # Of uploads one caller has so many at once; others have theirs.
        upload = b'"/1"\n'
        assert calls.post("/v1/jobs?model=cats", upload, Content_Type="application/jsonl").problem()[0] == 429
        other = served.calls("submit", name="printer")
        assert other.post("/v1/jobs?model=cats", upload, Content_Type="application/jsonl").status == 202


def test_a_head_that_does_not_end_is_told_so_and_its_place_is_free(served, monkeypatch):
    monkeypatch.setattr(patience, "HEAD_S", 0.3)
    with ExitStack() as stack:
        dripping = begin(served, stack, "GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-A: ")
        said = dripping.makefile("rb").read()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"kind":"request_timeout"' in said


def test_what_is_no_http_is_told_so_in_the_usual_form(served):
    with ExitStack() as stack:
        said = begin(served, stack, "\x16\x03\x01 hello\r\n\r\n").makefile("rb").read()
        assert said.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in said
        large = begin(served, stack, f"GET / HTTP/1.1\r\nHost: x\r\nX: {'x' * patience.MAX_HEAD}")
        assert large.makefile("rb").read().startswith(b"HTTP/1.1 400 ")


def test_a_body_below_the_slowest_pace_is_ended_though_it_never_pauses(served, calls, monkeypatch):
    monkeypatch.setattr(limits, "READ_S", 0.4)
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {calls.key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    )
    with ExitStack() as stack:
        client = begin(served, stack, head)
        client.settimeout(0.1)
        said, give_up_s = b"", time.monotonic() + 20
        while not said and time.monotonic() < give_up_s:
            client.sendall(b" ")
            try:
                said = client.recv(4096)
            except TimeoutError:
                continue
    assert said.startswith(b"HTTP/1.1 408 ")


def test_a_large_body_with_a_wrong_key_is_answered_though_it_is_not_read(served):
    with ExitStack() as stack:
        client = begin(served, stack, "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        client.sendall(b"Content-Length: 500000\r\n\r\n" + b" " * 500_000)
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 401 ")
