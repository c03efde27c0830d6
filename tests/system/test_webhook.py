"""Label Studio's webhook, over real HTTP, to the ledger: real processes from end to end, on both databases."""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests import builders
from tests.mills import PATIENCE_S, Mill, await_until
from tests.servers import free_port
from tests.worker import teaching
from worker.client import Refused
from worker.learning_messages import LabelledImage

TOKEN = "a-token-that-nobody-guesses"


@contextmanager
def webhook(mill: Mill, imagemill: list[str], log: Path) -> Iterator[str]:
    """Run the webhook as a process; give its address. It must end by itself when it is told to."""
    port = free_port()
    environ = {**os.environ, **replace(mill.settings, webhook_token=TOKEN).as_env()}
    with log.open("w") as out:
        running = subprocess.Popen([*imagemill, "webhook", "--port", str(port)], env=environ, stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        await_until(
            lambda: _get(f"{address}/healthcheck") == 200 or running.poll() is not None, "the webhook is healthy"
        )
        assert running.poll() is None, log.read_text()
        yield address
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(PATIENCE_S)
    assert running.returncode == 0, log.read_text()
    assert TOKEN not in log.read_text()
    assert "Traceback" not in log.read_text()


def test_labels_come_from_label_studio_once_each_and_corrections_hold(
    mill: Mill, imagemill: list[str], tmp_path: Path
) -> None:
    first, second = mill.write_images(2, prefix="studio")
    with webhook(mill, imagemill, tmp_path / "webhook.log") as address:
        created = _payload("ANNOTATION_CREATED", 1, first, "cat", when="2026-11-23T10:00:00Z")
        assert _post(address, created)["num_added"] == 1
        assert _post(address, _payload("ANNOTATION_CREATED", 2, second, "dog"))["num_added"] == 1
        updated = _payload("ANNOTATION_UPDATED", 1, first, "dog", when="2026-11-23T11:00:00Z")
        assert _post(address, updated)["num_corrected"] == 1
        assert _post(address, created)["num_unchanged"] == 1, "sent again, and late"
        assert "kept" in _post(address, {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 2}]})["note"]
        gone = _payload("ANNOTATION_CREATED", 3, f"{first}.gone", "cat")
        assert _post(address, gone, expected=422)["error"] == "There is no such file."
        assert "token" in _post(address, created, expected=401, token="x" * 20)["error"]
    assert teaching.known(mill.sessions, "studio") == {first: "dog", second: "dog"}


def test_a_service_labels_by_client_and_by_a_bare_message(mill: Mill) -> None:
    references = mill.write_images(3, prefix="taught")
    model = "taught"
    images = [LabelledImage(reference=reference, label="cat", who="shop") for reference in references]
    broken = LabelledImage(inline=b"no image", label="cat")
    receipt = mill.client.label_items([*images, broken], model=model)
    assert (receipt.num_added, [one.position for one in receipt.refused]) == (3, [3])
    assert mill.client.label([(references[0], "dog")], model=model, who="grace").num_corrected == 1
    assert mill.client.label_images([(builders.png_bytes(seed=77), "hen")], model=model).num_added == 1
    message = {"model": model, "labels": [{"reference": references[1], "label": "hen", "key": "order 7"}]}
    for expected in ("num_corrected", "num_unchanged"):
        assert mill.client._ask("imagemill.labels.v1", message)[expected] == 1
    known = teaching.known(mill.sessions, model)
    assert [known[reference] for reference in references] == ["dog", "hen", "cat"]
    assert sorted(known.values()) == ["cat", "dog", "hen", "hen"]


def test_a_wish_to_retrain_what_cannot_be_and_a_run_that_is_not_there_are_refused(mill: Mill) -> None:
    with pytest.raises(Refused, match="there are no weights to start from") as refused:
        mill.client.retrain("nobody", asked_by="shop")
    assert refused.value.kind == "nothing_to_start_from"
    with pytest.raises(Refused, match="There is no run 999999"):
        mill.client.run_status(999_999)


def _payload(action: str, number: int, reference: str, label: str, *, when: str = "2026-11-23T10:00:00Z") -> object:
    choice = {"value": {"choices": [label]}, "from_name": "class", "to_name": "image", "type": "choices"}
    annotation = {
        "id": number, "result": [choice], "was_cancelled": False, "ground_truth": False, "task": 100 + number,
        "completed_by": 1, "created_at": when, "updated_at": when,
    }  # fmt: skip
    task = {"id": 100 + number, "data": {"image": reference}, "project": 2}
    return {"action": action, "annotation": annotation, "task": task, "project": {"id": 2, "title": "Photos"}}


def _post(address: str, payload: object, *, expected: int = 200, token: str = TOKEN) -> dict[str, object]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(  # noqa: S310 - our own server on loopback
        f"{address}/label-studio/studio", json.dumps(payload).encode(), headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
            status, body = answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        with refused:
            status, body = refused.code, json.loads(refused.read())
    assert status == expected, body
    return body


def _get(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            return answer.status
    except OSError:
        return 0
