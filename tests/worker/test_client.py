"""The client is light, leaves its host alone, and says in a sentence when nobody answers."""

import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from redis import Redis

from worker import client, messages
from worker.client import BrokerUnreachable, Client, ClientError, NotAcknowledged
from worker.learning_messages import LabelledImage, Labels

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "numpy", "PIL", "sqlalchemy", "fsspec", "pipeline", "db"}
NOBODY = "redis://:hunter2@127.0.0.1:1/0"

#: what a service does, told from inside its process
HOST = """
import json, sys
from {package}.client import BrokerUnreachable, Client
import celery
host = celery.Celery("host", broker="memory://")
with Client("{url}") as client:
    try:
        client.submit(["s3://bucket/1.jpg"])
    except BrokerUnreachable as away:
        said = str(away)
print(json.dumps({{"modules": sorted(sys.modules), "app": celery.current_app.main, "said": said}}))
"""


def host(package: str, folder: Path) -> dict[str, object]:
    """Run a service that uses the client, from `folder`; give what it saw."""
    code = HOST.format(package=package, url=NOBODY)
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def test_a_service_gets_a_light_client_and_keeps_its_own_app() -> None:
    seen = host("worker", ROOT)
    assert not HEAVY & set(seen["modules"])
    assert seen["app"] == "host"


def test_the_wheel_is_the_client_alone_and_works(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("imagemill-*.whl")
    with zipfile.ZipFile(wheel) as zipped:
        modules = {name for name in zipped.namelist() if ".dist-info/" not in name}
        zipped.extractall(tmp_path / "site")
    client_alone = ("client", "forms", "learning_messages", "listening", "manifests", "messages")
    assert modules == {f"imagemill/{name}.py" for name in client_alone}
    seen = host("imagemill", tmp_path / "site")
    assert seen["app"] == "host"
    assert "worker" not in seen["modules"]


ASKED = {
    "submit": lambda one: one.submit(["s3://bucket/1.jpg"]),
    "classify": lambda one: one.classify(["s3://bucket/1.jpg"]),
    "status": lambda one: one.status("11111111-2222-4333-8444-555555555555"),
    "ping": lambda one: one.ping(),
    "label": lambda one: one.label([("s3://bucket/1.jpg", "cat")]),
    "retrain": lambda one: one.retrain(),
    "run status": lambda one: one.run_status(7),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_broker_that_is_away_is_one_sentence_without_its_password(ask: object) -> None:
    with Client(NOBODY) as one, pytest.raises(BrokerUnreachable) as away:
        ask(one)
    said = str(away.value)
    assert said.startswith("No Redis answers at redis://:**@127.0.0.1:1/0 (Error 111 connecting to 127.0.0.1:1. Conn")
    assert "hunter2" not in said
    assert "\n" not in said


def sent_to_intake(redis_url: str) -> list[dict[str, object]]:
    """The messages that wait for an intake worker."""
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis:
        return [json.loads(raw) for raw in redis.lrange(f"{messages.KEY_PREFIX}{messages.INTAKE_QUEUE}", 0, -1)]


def test_an_intake_that_never_answers_gets_the_same_message_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RESEND_S", 0.1)
    with Client(redis_url, timeout_s=0.35) as one, pytest.raises(NotAcknowledged, match="Is an intake worker running"):
        one.submit(["s3://bucket/1.jpg"])
    sent = sent_to_intake(redis_url)
    assert len(sent) > 1
    assert len({message["headers"]["id"] for message in sent}) == 1
    assert {message["headers"]["task"] for message in sent} == {messages.SUBMIT}
    assert "bucket" not in json.dumps([message["headers"] for message in sent]), "Flower shows headers"


def test_one_call_without_an_intake_sends_the_same_submission_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RESEND_S", 0.1)
    with Client(redis_url, timeout_s=0.35) as one, pytest.raises(NotAcknowledged, match="Is an intake worker running"):
        one.classify(["s3://bucket/1.jpg"])
    sent = sent_to_intake(redis_url)
    assert len(sent) > 1
    assert len({message["body"] for message in sent}) == 1, "one job, however often it is sent"
    assert {message["headers"]["ignore_result"] for message in sent} == {True}


@pytest.mark.parametrize(
    ("stored", "error", "said"),
    [
        ({"status": "SUCCESS", "result": {"refused": {"kind": "invalid", "message": "No."}}}, client.Refused, "No."),
        ({"status": "FAILURE", "result": {"exc_type": "KeyError"}}, ClientError, "Intake failed on this request"),
    ],
    ids=["refused", "failed"],
)
def test_an_answer_that_is_no_is_raised(stored: dict[str, object], error: type[ClientError], said: str) -> None:
    with pytest.raises(error, match=said):
        client._opened(stored)


@pytest.mark.parametrize("status", ["RETRY", "FAILURE"])
def test_the_death_of_intakes_child_is_no_answer(redis_url: str, status: str) -> None:
    with Client(redis_url) as one:
        question = client._Question(task=messages.STATUS, payload={})
        stored = {"status": status, "result": {"exc_type": "WorkerLostError", "exc_message": ["signal 9"]}}
        one._replies.client.set(one._replies.get_key_for_task(question.id), json.dumps(stored))
        assert one._read_answer(question) is None


@pytest.mark.parametrize("later", [{}, {"retry_after_s": 12.0}], ids=["of an earlier release", "that says when"])
def test_a_refusal_says_when_to_come_again_if_intake_does(later: dict[str, float]) -> None:
    refused = {"kind": "queue_full", "message": "The queue is full."} | later
    with pytest.raises(client.Refused) as raised:
        client._opened({"status": "SUCCESS", "result": {"refused": refused}})
    assert (raised.value.kind, raised.value.retry_after_s) == ("queue_full", later.get("retry_after_s"))


def test_a_part_is_full_by_count_or_by_size() -> None:
    header = messages.Submission(job_id="", items=(), num_items=4)
    large = messages.MAX_PART_BYTES * 3 // 4 // 2 - 64
    items = [messages.Item(inline=bytes(size)) for size in (large, large, large, 1)]
    parts = list(client.parts(header, lambda: iter(items)))
    assert [(part.first_position, len(part.items)) for part in parts] == [(0, 2), (2, 2)]
    many = [messages.Item(reference="s3://b/1.jpg")] * (messages.MAX_PART_ITEMS + 1)
    assert [len(part.items) for part in client.parts(header, lambda: iter(many))] == [messages.MAX_PART_ITEMS, 1]


def test_a_job_of_100_000_items_never_fills_redis_however_far_behind_intake_is(redis_url: str) -> None:
    references = [f"s3://photos/{number:0300}.jpg" for number in range(100_000)]
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis:
        before = redis.info("memory")["used_memory"]
        with Client(redis_url, timeout_s=1.0) as one, pytest.raises(NotAcknowledged):
            one.submit(references)
        assert redis.info("memory")["used_memory"] - before < 5 * 2**20
    # The others wait until it is known that there is room for the job.
    assert len(sent_to_intake(redis_url)) == 1


def test_labels_travel_in_parts_each_with_a_key_of_its_own() -> None:
    large = messages.MAX_PART_BYTES * 3 // 4 // 2 - 1000
    images = [LabelledImage(inline=bytes(size), label="cat") for size in (large, large, large, 1)]
    assert [len(part) for part in client._label_parts(iter(images))] == [2, 2]
    many = [LabelledImage(reference="s3://b/1.jpg", label="cat")] * (2 * client.PART_LABELS + 1)
    assert [len(part) for part in client._label_parts(iter(many))] == [client.PART_LABELS, client.PART_LABELS, 1]


def test_labels_that_nobody_acknowledges_are_sent_once_more_and_no_sooner(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client, "RESEND_S", 0.01)
    monkeypatch.setattr(client, "RESEND_LABELS_S", 0.25)
    monkeypatch.chdir(tmp_path)
    with Client(redis_url, timeout_s=0.4) as one, pytest.raises(NotAcknowledged):
        one.label([("a b.jpg", "cat"), ("s3://bucket/2.jpg", "dog")], model="cats", who="shop", group="g")
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis:
        sent = [json.loads(raw) for raw in redis.lrange(f"{messages.KEY_PREFIX}{messages.INTAKE_QUEUE}", 0, -1)]
    assert len(sent) == 2
    assert {message["headers"]["task"] for message in sent} == {messages.LABELS}
    assert "bucket" not in json.dumps([message["headers"] for message in sent]), "Flower shows headers"
    bodies = [json.loads(base64.b64decode(message["body"]))[1] for message in sent]
    assert bodies[0] == bodies[1]
    first, second = Labels.parse(bodies[0]).images
    assert first.reference == f"file://{tmp_path}/a%20b.jpg"
    assert (second.label, second.who, second.source, second.group) == ("dog", "shop", "client", "g")
    assert (first.key.rpartition(":")[2], second.key.rpartition(":")[2]) == ("0", "1")
    assert first.key.rpartition(":")[0] == second.key.rpartition(":")[0]
