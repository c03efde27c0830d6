"""A caller hears how its job goes: by asking and waiting, or as events; and goes away when it likes."""

import json
import socket
import threading
import time
import uuid

import pytest

from db import jobs, session
from worker.web import following

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
#: seconds a wait may be late on a busy machine
LATE_S = 10.0


def cancel(served, job_id):
    with session.transaction(served.sessions) as transaction:
        jobs.cancel(transaction, uuid.UUID(job_id))


def later(seconds, then):
    timer = threading.Timer(seconds, then)
    timer.start()
    return timer


def test_a_long_poll_ends_when_the_job_does_or_the_time_is_over(served, calls):
    job_id = calls.post("/v1/jobs", {"model": "cats", "items": ["/1"]}).json["id"]
    began_s = time.monotonic()
    assert calls.get(f"/v1/jobs/{job_id}?wait_s=0.3").json["status"] == "accepted"
    assert time.monotonic() - began_s >= 0.3
    later(0.2, lambda: cancel(served, job_id))
    assert calls.get(f"/v1/jobs/{job_id}?wait_s=30").json["status"] == "cancelled"
    assert time.monotonic() - began_s < LATE_S
    assert calls.get(f"/v1/jobs/{job_id}?wait_s=61").problem() == (422, "invalid")


def test_events_tell_each_change_and_end_with_the_job(served, calls):
    job_id = calls.post("/v1/jobs", {"model": "cats", "items": ["/1"]}).json["id"]
    later(0.3, lambda: cancel(served, job_id))
    answer = calls.get(f"/v1/jobs/{job_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [
        dict(line.split(": ", 1) for line in event.split("\n")) for event in answer.body.decode().split("\n\n")[:-1]
    ]
    assert [one["event"] for one in told] == ["progress", "end"]
    assert [json.loads(one["data"])["status"] for one in told] == ["accepted", "cancelled"]


def test_a_silent_stream_shows_that_it_lives_and_ends_when_its_reader_goes(served, calls, monkeypatch):
    monkeypatch.setattr(following, "SILENCE_S", 0.1)
    job_id = calls.post("/v1/jobs", {"model": "cats", "items": ["/1"]}).json["id"]
    head = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {calls.key}\r\n\r\n"
    house = served.app.state.house
    with socket.create_connection(("127.0.0.1", served.port), timeout=LATE_S) as client:
        client.sendall(head.encode())
        heard = b""
        while heard.count(b": still here") < 2:
            heard += client.recv(4096)
        assert house.waits.taken.total() == 1
    give_up_s = time.monotonic() + LATE_S
    while house.waits.taken.total() and time.monotonic() < give_up_s:
        time.sleep(0.02)
    assert house.waits.taken.total() == 0
    assert calls.get(f"/v1/jobs/{job_id}").json["status"] == "accepted"


def test_one_caller_does_not_take_all_places_to_wait(served, calls):
    job_id = calls.post("/v1/jobs", {"model": "cats", "items": ["/1"]}).json["id"]
    served.app.state.house.waits.taken["shop"] = 500
    refused = calls.get(f"/v1/jobs/{job_id}/events")
    assert refused.problem() == (429, "too_many_at_once")
    assert refused.headers["retry-after"] == "5"
    operator = served.calls("operate", name="boss")
    assert operator.get(f"/v1/jobs/{job_id}?wait_s=0.1").status == 200
