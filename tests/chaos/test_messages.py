"""What strangers put into our queues is dropped or refused; nothing of it is run, and good work goes on."""

import base64
import json
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.chaos import rows
from tests.chaos.trials import Trial
from worker import messages
from worker.settings import embedded_socket

#: what would end a worker that left it to Celery 5.7
MALFORMED = (b"not json", b"{}", b"[]", b"\xff\xfe", b'{"body": 1}')
#: bytes of the largest message a stranger sends
LARGE = 5 * 1024 * 1024


class _Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self._folder,)


@pytest.mark.timeout(600)
def test_row_24_strangers_messages_are_dropped_and_run_nothing(trial: Trial, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    queues = ["imagemill:intake", "imagemill:classify.tiny.bulk"]
    junk = [*_well_formed(ran), *MALFORMED]
    with redis.Redis(unix_socket_path=str(embedded_socket(trial.mill.settings.home))) as admin:
        for message in junk:
            trial.fault()
            for queue in queues:
                admin.lpush(queue, message)
            # Seen to be taken, one after the other: each may have ended a worker.
            trial.until(lambda: not any(admin.llen(queue) for queue in queues), "the message was taken")
            trial.submit(trial.slow(20 // len(junk) + 1))
    trial.drain()
    note = f"{2 * len(junk)} messages, code of them that ran: {int(ran.exists())}; {trial.ended()}"
    rows.check(trial.row("24", "junk, a pickle, an unknown task and 5 MB in both queues", note=note))
    assert not ran.exists()


def _well_formed(ran: Path) -> Iterator[bytes]:
    """Give messages as Celery writes them: a pickle, an unknown task, and a submission of 5 MB."""
    yield _envelope(messages.SUBMIT, pickle.dumps(((), {"job_id": _Evil(ran)}, {})), "application/x-python-serialize")
    yield _envelope("nobody.knows", b"[[], {}, {}]", "application/json")
    large = {"job_id": str(uuid.uuid4()), "model": "tiny", "items": ["x" * LARGE]}
    yield _envelope(messages.SUBMIT, json.dumps([[], large, {}]).encode(), "application/json")


def _envelope(task: str, body: bytes, content_type: str) -> bytes:
    identity = str(uuid.uuid4())
    properties = {
        "correlation_id": identity,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "intake"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid.uuid4()),
    }
    envelope = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "binary" if "python" in content_type else "utf-8",
        "content-type": content_type,
        "headers": {"lang": "py", "task": task, "id": identity, "root_id": identity},
        "properties": properties,
    }
    return json.dumps(envelope).encode()
