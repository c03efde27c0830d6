"""The client is light, leaves its host alone, and says in a sentence when nobody answers."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from redis import Redis

from worker import client, messages
from worker.client import BrokerUnreachable, Client, ClientError, NotAcknowledged

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
    assert modules == {f"imagemill/{name}.py" for name in ("client", "messages", "manifests")}
    seen = host("imagemill", tmp_path / "site")
    assert seen["app"] == "host"
    assert "worker" not in seen["modules"]


ASKED = {
    "submit": lambda one: one.submit(["s3://bucket/1.jpg"]),
    "status": lambda one: one.status("11111111-2222-4333-8444-555555555555"),
    "ping": lambda one: one.ping(),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_broker_that_is_away_is_one_sentence_without_its_password(ask: object) -> None:
    with Client(NOBODY) as one, pytest.raises(BrokerUnreachable) as away:
        ask(one)
    said = str(away.value)
    assert said.startswith("No Redis answers at redis://:**@127.0.0.1:1/0 (Error 111 connecting to 127.0.0.1:1. Conn")
    assert "hunter2" not in said
    assert "\n" not in said


def test_an_intake_that_never_answers_gets_the_same_message_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RESEND_S", 0.1)
    with Client(redis_url, timeout_s=0.35) as one, pytest.raises(NotAcknowledged, match="Is an intake worker running"):
        one.submit(["s3://bucket/1.jpg"])
    with Redis(unix_socket_path=redis_url.removeprefix("redis+socket://")) as redis:
        sent = [json.loads(raw) for raw in redis.lrange(f"{messages.KEY_PREFIX}{messages.INTAKE_QUEUE}", 0, -1)]
    assert len(sent) > 1
    assert len({message["headers"]["id"] for message in sent}) == 1
    assert {message["headers"]["task"] for message in sent} == {messages.SUBMIT}
    assert "bucket" not in json.dumps([message["headers"] for message in sent]), "Flower shows headers"


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


def test_a_part_is_full_by_count_or_by_size() -> None:
    header = messages.Submission(job_id="", items=(), num_items=4)
    large = messages.MAX_PART_BYTES * 3 // 4 // 2 - 64
    items = [messages.Item(inline=bytes(size)) for size in (large, large, large, 1)]
    parts = list(client._parts(header, lambda: iter(items)))
    assert [(part.first_position, len(part.items)) for part in parts] == [(0, 2), (2, 2)]
    many = [messages.Item(reference="s3://b/1.jpg")] * (messages.MAX_PART_ITEMS + 1)
    assert [len(part.items) for part in client._parts(header, lambda: iter(many))] == [messages.MAX_PART_ITEMS, 1]
