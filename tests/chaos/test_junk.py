"""Junk in every queue of a real mill: nothing of it is run, no worker ends, and the work that comes after is whole."""

import json
import pickle
import shutil
import tempfile
import uuid
import zlib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import func, select

from db import models, session
from tests import servers
from tests.chaos import rows
from tests.mills import Mill, await_until, open_mill
from worker import messages

NUM_GOOD = 20
#: every queue that a worker of the mill reads
QUEUES = ("intake", "classify.tiny.interactive", "classify.tiny.bulk", "learn", "upkeep")
ROLES = ("intake", "classify", "learn", "upkeep")
LARGE = 5 * 2**20


@pytest.fixture
def mill(postgres: servers.Postgres) -> Iterator[Mill]:
    """A mill of this test's own. On PostgreSQL alone, the stricter of the two."""
    home = Path(tempfile.mkdtemp(prefix="im-junk-"))
    postgres.execute("CREATE DATABASE junk")
    try:
        with open_mill(home, database_url=postgres.url("junk")) as opened:
            yield opened
    finally:
        shutil.rmtree(home, ignore_errors=True)


class Canary:
    """A thing whose unpickling runs code: it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


def envelope(task: str, /, *, body: object = None, **headers: object) -> dict[str, object]:
    """A message as Celery writes it, with a body of text or of a task's arguments; `headers` replace its own."""
    text = json.dumps([[], {}, {}] if body is None else body).encode()
    task_id = str(uuid.uuid4())
    delivery = {"exchange": "", "routing_key": "junk"}
    return {
        "body": b64encode(text).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "task": task,
            "id": task_id,
            "root_id": task_id,
            "retries": 0,
            "timelimit": [None, None],
            **headers,
        },
        "properties": {"delivery_tag": task_id, "delivery_info": delivery, "body_encoding": "base64", "priority": 0},
    }


def call(task: str, /, **kwargs: object) -> dict[str, object]:
    return envelope(task, body=[[], kwargs, {}])


def without(message: dict[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in message.items() if key != name}


def malformed(canary: Path) -> list[bytes]:
    """What is no message at all, or none that any of our producers would send."""
    whole = envelope(messages.SUBMIT)
    pickled = b64encode(pickle.dumps([[], {"job_id": Canary(canary)}, {}])).decode()
    odd = [
        {},
        [],
        "text",
        7,
        None,
        *(without(whole, name) for name in whole),
        *(whole | {name: 7} for name in whole),
        *(whole | {"properties": {**whole["properties"], name: value}} for name, value in WRONG_PROPERTIES),
        *(envelope(messages.SUBMIT, **{name: value}) for name, value in WRONG_HEADERS),
        whole | {"content-type": "application/x-python-serialize", "content-encoding": "binary", "body": pickled},
        whole | {"content-type": "application/json", "body": pickled},
        whole | {"content-type": "application/x-yaml"},
        envelope(messages.SUBMIT, compression="application/x-gzip") | {"body": bomb()},
        *(envelope(messages.SUBMIT, body=body) for body in ("text", 7, {}, [], [[], {}], [{}, [], {}], [[], 7, {}])),
        envelope("posix.system", body=[["touch"], {}, {}]),
        envelope("celery.chord_unlock"),
        envelope(messages.SUBMIT, body=[[], {"job_id": {"__type__": "datetime", "__value__": 7}}, {}]),
    ]
    raw = [b"", b"not json", b"\xff\xfe\x00", b"[" * 100_000, b'{"headers": NaN', b"x" * LARGE]
    return [*raw, *(json.dumps(one).encode() for one in odd)]


#: by name, and a value that no worker can read
WRONG_PROPERTIES = (("delivery_tag", None), ("delivery_info", 7), ("delivery_info", {}), ("body_encoding", "rot13"))
WRONG_HEADERS = (
    ("task", None),
    ("task", {}),
    ("id", None),
    ("id", ["x"]),
    ("eta", 7),
    ("expires", {}),
    ("retries", "many"),
    ("timelimit", "soon"),
    ("timelimit", [1, 2, 3]),
    ("argsrepr", 7),
)
NO_NUMBERS = (10**6, -1, 0, "1", {"a": 1}, [1], 2**70, None, True, 1.5, "' OR 1=1")
ALL_TASKS = sorted(set().union(*messages.TASKS.values()))
#: messages of the right form, whose content is nothing that was ever in the ledger
FORGED = [
    *(call(messages.CLASSIFY, shard=number) for number in NO_NUMBERS),
    *(call(messages.LEARN, run=number) for number in NO_NUMBERS),
    *(call(messages.WATCH_DRIFT, model=model) for model in ({"a": 1}, "../../x", "X" * 100, 7)),
    *(call(task, surprise=1) for task in ALL_TASKS),
    *(envelope(task, body=[[1, 2, 3], {}, {}]) for task in ALL_TASKS),
    *(call(task, job_id=job_id) for task in (messages.STATUS, messages.CANCEL) for job_id in ({}, 7, "x", None)),
    call(messages.RESULTS, job_id=str(uuid.uuid4()), after="x", limit={}),
    call(messages.SUBMIT, job_id=str(uuid.uuid4()), model="tiny", items=["file:///x.png"], surprise=1),
    call(messages.SUBMIT, job_id=str(uuid.uuid4()), model="tiny", items=["x" * LARGE]),
    call(messages.SUBMIT, job_id=str(uuid.uuid4()), model="tiny", items=["x" * 4000] * 1000),
    call(messages.SUBMIT, job_id=str(uuid.uuid4()), model="tiny", items=["x"] * 100_000),
    call(messages.LABELS, model="tiny", labels=[{"label": "cat", "bytes": "???"}]),
    call(messages.RETRAIN, model={"a": 1}),
    call(messages.RUN_STATUS, run="x"),
    envelope(messages.STATUS, body=[[], {}, {"callbacks": [{"task": "posix.system", "args": ["touch"]}]}]),
    envelope(messages.STATUS, eta="2026-13-99", expires="never"),
]


def bomb() -> str:
    """64 MB in 64 kB."""
    return b64encode(zlib.compress(bytes(2**26), 9)).decode()


def test_junk_in_every_queue_is_dropped_runs_no_code_and_costs_no_worker_and_no_job(mill: Mill, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    before = processes(mill)
    with redis.Redis(unix_socket_path=mill.settings.broker_url.removeprefix("redis+socket://")) as broker:
        for queue in QUEUES:
            broker.lpush(f"{messages.KEY_PREFIX}{queue}", *malformed(canary), *(json.dumps(one) for one in FORGED))
        await_until(lambda: not waiting(broker), "all the junk is gone")

    receipt = mill.client.submit(mill.write_images(NUM_GOOD, prefix="good"), model="tiny")
    status = mill.client.wait(receipt.job_id, timeout_s=60.0)
    assert status.num_succeeded == NUM_GOOD
    assert processes(mill) == before, "no worker and no child has ended"
    assert not canary.exists()
    assert "SystemExit" not in logs(mill)
    assert len(logs(mill)) < 2**20, "what was dropped is not in the log"
    positions = mill.positions(receipt.job_id)
    rows.check(
        rows.Row.of(
            positions,
            NUM_GOOD,
            number="junk",
            fault=f"junk in every queue: {len(malformed(canary)) + len(FORGED)} pieces each",
            database="postgresql",
            unexpected=num_outcomes(mill) - len(positions),
            note="no code run, no process ended",
        )
    )


def processes(mill: Mill) -> dict[str, tuple[int, int | None, int]]:
    """By role: the worker's pid, how it ended, and its child's pid."""
    return {role: (mill.part(role).process.pid, mill.part(role).process.poll(), mill.child_pid(role)) for role in ROLES}


def waiting(broker: "redis.Redis") -> int:
    """Messages that wait, or that are in a worker's hand."""
    return sum(broker.llen(f"{messages.KEY_PREFIX}{queue}") for queue in QUEUES) + broker.hlen(
        f"{messages.KEY_PREFIX}unacked"
    )


def num_outcomes(mill: Mill) -> int:
    with session.reading(mill.sessions) as reading:
        return reading.scalars(select(func.count()).select_from(models.Outcome)).one()


def logs(mill: Mill) -> str:
    return "".join(log.read_text(errors="replace") for log in sorted(mill.stack.logs.glob("*.log")))
