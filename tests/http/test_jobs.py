"""Jobs over HTTP: what is accepted is in the ledger, and what is not leaves nothing there."""

import base64
import json
import socket
import uuid
from http import client as http_client

import pytest
from sqlalchemy import func, select

from db import leases, models, session
from tests import builders, servers
from tests.db import builders as rows
from tests.http.conftest import make_version, serve
from tests.http.forms import HEADERS, form
from worker.messages import local_path
from worker.settings import Settings
from worker.web import bodies, limits

PNG = builders.png_bytes(size=(8, 8), seed=1)
LINES = {"Content_Type": "application/jsonl"}


def num_rows(served, table):
    with session.reading(served.sessions) as reading:
        return reading.scalar(select(func.count()).select_from(table))


def items_of(served, job_id):
    """The items of a job as the ledger has them: position, key, reference."""
    with session.reading(served.sessions) as reading:
        chosen = select(models.Shard.items).where(models.Shard.job_id == uuid.UUID(job_id)).order_by(models.Shard.id)
        return [tuple(item) for items in reading.scalars(chosen) for item in items]


def test_references_become_a_job_with_the_callers_names_and_its_own_ways(served, calls):
    wanted = {
        "model": "cats",
        "items": [
            "/photos/1.png",
            {"reference": "s3://bucket/2.png", "custom_id": "two"},
            {"reference": "/3", "key": "3"},
        ],
        "priority": "interactive",
        "top_k": 2,
        "completion_window": "30m",
    }
    answer = calls.post("/v1/jobs", wanted)
    assert answer.status == 202
    job = answer.json
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["version"], job["priority"], job["top_k"]) == ("accepted", "cats:1", "interactive", 2)
    assert (job["caller"], job["request_counts"]) == ("shop", {"total": 3, "completed": 0, "failed": 0})
    assert job["expires_at"] - job["created_at"] == pytest.approx(1800, abs=5)
    assert items_of(served, job["id"]) == [
        (0, None, "/photos/1.png"), (1, "two", "s3://bucket/2.png"), (2, "3", "/3"),
    ]  # fmt: skip
    assert calls.get(f"/v1/jobs/{job['id']}").json == job


def test_small_images_come_as_base64_or_as_files_and_are_kept_once(served, calls):
    inline = calls.post("/v1/jobs", {"model": "cats", "items": [{"bytes": base64.b64encode(PNG).decode()}]}).json
    sent = form(("a.png", PNG), ("b.png", PNG + b"more"), model="cats", top_k="3")
    uploaded = calls.post("/v1/jobs", sent, **HEADERS).json
    [(_, _, reference)] = items_of(served, inline["id"])
    [first, second] = items_of(served, uploaded["id"])
    assert (first[1], second[1], uploaded["top_k"]) == ("a.png", "b.png", 3)
    assert first[2] == reference != second[2]
    with open(local_path(reference), "rb") as kept:  # noqa: PTH123
        assert kept.read() == PNG


def test_a_file_is_an_item_whatever_is_in_it_and_only_the_first_of_a_name_has_it(served, calls):
    sent = form(("a.png", PNG), ("a.png", b"no image"), ("empty.png", b""), model="cats")
    job = calls.post("/v1/jobs", sent, **HEADERS).json
    assert [key for _, key, _ in items_of(served, job["id"])] == ["a.png", None, "empty.png"]


def test_a_manifest_of_many_parts_is_one_job(served, calls):
    lines = b"".join(json.dumps({"reference": f"/photos/{n}.png", "key": str(n)}).encode() + b"\n" for n in range(2500))
    job = calls.post("/v1/jobs?model=cats&priority=interactive", lines, **LINES).json
    assert (job["status"], job["priority"], job["request_counts"]["total"]) == ("accepted", "interactive", 2500)
    assert num_rows(served, models.Part) == 3
    assert items_of(served, job["id"])[-1] == (2499, "2499", "/photos/2499.png")


def test_the_same_key_is_the_same_job_for_its_caller_alone(served, calls):
    wanted = {"model": "cats", "items": ["/1", "/2"]}
    first = calls.post("/v1/jobs", wanted, Idempotency_Key='"nightly"')
    again = calls.post("/v1/jobs", wanted, Idempotency_Key="nightly")
    assert (first.status, again.status, again.json["id"]) == (202, 202, first.json["id"])
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    other = calls.post("/v1/jobs", {**wanted, "items": ["/1"]}, Idempotency_Key="nightly")
    assert other.problem() == (422, "idempotency_conflict")
    others = served.calls("submit", name="printer").post(
        "/v1/jobs", {**wanted, "items": ["/1"]}, Idempotency_Key="nightly"
    )
    assert others.status == 202
    assert num_rows(served, models.Job) == 2


BAD = {
    "no JSON": (b"{'items'", (400, "not_json"), "The body is not JSON."),
    "no items": ({"model": "cats", "items": []}, (422, "invalid"), "items: List should have at least 1 item"),
    "an unknown field": ({"items": ["/1"], "itemz": 1}, (422, "invalid"), "itemz: Extra inputs are not permitted."),
    "a wrong type": ({"items": ["/1"], "top_k": "5"}, (422, "invalid"), "top_k: Input should be a valid integer."),
    "a relative path": ({"items": ["/1", "a.png"]}, (422, "invalid"), "items.1: give an absolute path, or a reference"),
    "both ways": ({"items": [{"reference": "/1", "bytes": "AAAA"}]}, (422, "invalid"), "An item needs either"),
    "both names": ({"items": [{"reference": "/1", "custom_id": "1", "key": "1"}]}, (422, "invalid"), "An item has a"),
    "a key twice": (
        {"items": [{"reference": "/1", "key": "1"}, {"reference": "/2", "key": "1"}]},
        (422, "invalid"),
        "Item 2: the key",
    ),
    "no such model": ({"model": "dogs", "items": ["/1"]}, (404, "unknown_model"), "No version of a model"),
    "no such version": ({"model": "cats", "version": "cats:9", "items": ["/1"]}, (404, "unknown_version"), "There is"),
    "too much inline": (
        {"model": "cats", "items": [{"bytes": "A" * 120_000}]}, (422, "invalid"), "An inline image has 90000 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("body", "expected", "sentence"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_said_precisely_and_nothing_is_recorded(served, calls, body, expected, sentence):
    headers = {"Content_Type": "application/json"} if isinstance(body, bytes) else {}
    answer = calls.post("/v1/jobs", body, **headers)
    assert answer.problem() == expected
    assert answer.json["detail"].startswith(sentence)
    assert num_rows(served, models.Job) == 0


def test_wrong_bodies_of_other_kinds_are_said_precisely_too(served, calls):
    bad_line = calls.post("/v1/jobs?model=cats", b'"/1"\n{"reference": 5}\n', **LINES)
    assert (bad_line.problem(), bad_line.json["detail"][:19]) == ((422, "invalid"), "Line 2: reference: ")
    assert calls.post("/v1/jobs?model=cats", b"\n\n", **LINES).problem() == (422, "invalid")
    assert calls.post("/v1/jobs?top_k=0", b'"/1"\n', **LINES).problem() == (422, "invalid")
    assert calls.post("/v1/jobs?sort=1", b'"/1"\n', **LINES).problem() == (422, "invalid")
    assert calls.post("/v1/jobs", b"reference\n/1\n", Content_Type="text/csv").problem() == (
        415,
        "unsupported_media_type",
    )
    assert calls.post("/v1/jobs", form(model="cats"), **HEADERS).problem() == (422, "invalid")
    assert calls.post("/v1/jobs", form(("a.png", PNG), colour="red"), **HEADERS).problem() == (422, "invalid")
    assert calls.post("/v1/jobs", b"no form", **HEADERS).problem() == (400, "bad_request")
    large = b"\x89PNG" + bytes(served.settings.max_image_bytes)
    assert calls.post("/v1/jobs", form(("a.png", large), model="cats"), **HEADERS).problem() == (413, "too_large")
    assert num_rows(served, models.Job) == 0


def test_a_caller_sees_its_own_jobs_and_an_operator_all(served, calls):
    mine = [calls.post("/v1/jobs", {"model": "cats", "items": ["/1"]}).json["id"] for _ in range(3)]
    other, operator = served.calls("submit", name="printer"), served.calls("operate", name="boss")
    theirs = other.post("/v1/jobs", {"model": "cats", "items": ["/1"]}).json["id"]
    assert calls.get(f"/v1/jobs/{theirs}").problem() == (404, "unknown_job")
    assert calls.post(f"/v1/jobs/{theirs}/cancel").problem() == (404, "unknown_job")
    assert calls.get(f"/v1/jobs/{theirs}/results").problem() == (404, "unknown_job")
    assert operator.get(f"/v1/jobs/{theirs}").json["caller"] == "printer"
    assert [one["id"] for one in operator.get("/v1/jobs").json["data"]] == [theirs, *reversed(mine)]
    page = calls.get("/v1/jobs?limit=2").json
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([mine[2], mine[1]], True)
    rest = calls.get(f"/v1/jobs?limit=2&after={mine[1]}").json
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([mine[0]], False)
    assert calls.get("/v1/jobs?status=failed").json["data"] == []


def test_a_job_is_cancelled_and_tried_again(served, calls):
    job_id = calls.post("/v1/jobs", {"model": "cats", "items": ["/1"]}).json["id"]
    assert calls.post(f"/v1/jobs/{job_id}/cancel").json["status"] == "cancelled"
    assert calls.post(f"/v1/jobs/{job_id}/cancel").json["status"] == "cancelled"
    assert calls.post(f"/v1/jobs/{job_id}/retry").json["status"] == "running"
    assert served.calls("label").post(f"/v1/jobs/{job_id}/retry").problem() == (403, "scope_missing")


def test_a_full_queue_is_429_with_when_to_come_again_and_a_job_above_it_413(home, database_url, redis_url):
    settings = Settings(home=home, broker_url=redis_url, database_url=database_url, max_caller_items=10).resolved()
    with serve(settings) as served:
        make_version(served)
        calls = served.calls("submit")
        wanted = {"model": "cats", "items": [f"/{n}" for n in range(8)]}
        assert calls.post("/v1/jobs", wanted).status == 202
        full = calls.post("/v1/jobs", wanted)
        assert full.problem() == (429, "quota_exceeded")
        assert (full.headers["retry-after"], full.json["retry_after_s"]) == ("60", 60.0)
        assert full.json["detail"].startswith("Caller 'shop' has 8 items waiting of 10")
        assert served.calls("submit", name="printer").post("/v1/jobs", wanted).status == 202
        above = calls.post("/v1/jobs", {**wanted, "items": [f"/{n}" for n in range(11)]})
        assert (above.problem(), "retry-after" in above.headers) == ((413, "quota_exceeded"), False)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("where", "kind"), [("/v1/jobs", "application/jsonl"), ("/v1/runs", "application/json")])
def test_a_body_that_is_too_long_is_told_so_whether_it_says_its_length_or_not(
    home, database_url, redis_url, monkeypatch, where, kind
):
    monkeypatch.setattr(bodies, "MAX_UPLOAD", 1000)
    with serve(Settings(home=home, broker_url=redis_url, database_url=database_url).resolved()) as served:
        make_version(served)
        headers = {"Authorization": f"Bearer {served.key('submit', 'label', 'operate')}", "Content-Type": kind}
        for body in (b" " * 2000, iter([b" " * 500] * 4)):
            caller = http_client.HTTPConnection("127.0.0.1", served.port, timeout=20)
            caller.request("POST", where, body=body, headers=headers)  # in chunks where it does not know how long it is
            answer = caller.getresponse()
            told = json.loads(answer.read())
            assert (answer.status, told["kind"]) == (413, "too_large"), told
            assert "more than 1,000 bytes" in told["detail"]
            caller.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_jobs_are_accepted_while_the_broker_is_away_and_labels_are_told_so(home, database_url):
    away = f"redis://127.0.0.1:{servers.free_port()}/0"
    with serve(Settings(home=home, broker_url=away, database_url=database_url).resolved()) as served:
        make_version(served)
        calls = served.calls("submit", "label")
        assert calls.post("/v1/jobs", {"model": "cats", "items": ["/1"]}).json["status"] == "accepted"
        told = calls.post("/v1/labels", {"labels": [{"label": "cat", "reference": "/1"}]})
        assert told.problem() == (503, "broker_unreachable")
        assert "127.0.0.1" not in told.body.decode()


@pytest.fixture
def cut(served):
    """Send the beginning of a request and go away."""

    def begin(body: bytes, content_type: str, length: int) -> None:
        head = (
            f"POST /v1/jobs?model=cats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.key('submit')}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(head.encode() + body)

    return begin


def test_a_body_that_is_cut_off_leaves_nothing(served, calls, cut):
    cut(b'"/1"\n' * 5000, "application/jsonl", 1_000_000)
    cut(form(("a.png", PNG), model="cats")[:-20], HEADERS["Content_Type"], 5000)
    cut(b'{"model": "cats", "items": ["/1"', "application/json", 5000)
    assert calls.post("/v1/jobs", {"model": "cats", "items": ["/1"]}).status == 202  # the others were there before
    assert num_rows(served, models.Job) == 1
    assert not list((served.settings.home / "store").rglob("*/*/*.png"))


def test_a_body_that_pauses_too_long_is_told_so(served, version, monkeypatch):
    monkeypatch.setattr(limits, "READ_S", 0.3)
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.key('submit')}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
        client.sendall(head.encode())
        said = client.makefile("rb").read()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"kind":"request_timeout"' in said


def test_results_are_lines_that_can_be_taken_up_where_they_broke_off(served, calls, version):
    job_id = calls.post("/v1/jobs", {"model": "cats", "items": [f"/{n}" for n in range(7)]}).json["id"]
    with session.transaction(served.sessions) as transaction:
        for claim in rows.fill(transaction, 100, version_id=version.id):
            leases.finish(transaction, claim, rows.outcomes_of(claim, failing={2, 5}, version_id=version.id))
    assert calls.get(f"/v1/jobs/{job_id}").json["request_counts"] == {"total": 7, "completed": 5, "failed": 2}
    whole = calls.get(f"/v1/jobs/{job_id}/results")
    assert (whole.headers["content-type"], whole.headers["job-status"]) == ("application/jsonl", "partial")
    assert [line["position"] for line in whole.lines] == list(range(7))
    assert whole.lines[0]["top_k"][0] == {"label": whole.lines[0]["label"], "score": whole.lines[0]["score"]}
    begun = calls.get(f"/v1/jobs/{job_id}/results?limit=3").lines
    rest = calls.get(f"/v1/jobs/{job_id}/results?after={begun[-1]['position']}").lines
    assert begun + rest == whole.lines
    failures = calls.get(f"/v1/jobs/{job_id}/errors").lines
    assert [line["position"] for line in failures] == [2, 5]
    assert failures[0]["error"] == {"stage": "decode", "kind": "ImageUnreadable", "message": "not an image"}
