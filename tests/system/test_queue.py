"""Jobs from every door, through real processes, on both databases."""

import json
import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mills import Mill
from worker import client, messages
from worker.client import Refused, Unfinished
from worker.listening import Listening
from worker.messages import Item, Notice


def test_a_job_comes_back_whole_with_the_callers_keys(mill: Mill) -> None:
    references = mill.write_images(100, prefix="keys")
    receipt = mill.client.submit_items(
        lambda: (Item(reference=reference, key=f"k{n}") for n, reference in enumerate(references)),
        model="tiny",
        top_k=2,
    )
    status = mill.client.wait(receipt.job_id, timeout_s=60)
    results = list(mill.client.results(receipt.job_id))
    assert (status.state, status.num_succeeded, status.version) == ("succeeded", 100, "tiny:1")
    assert [(result.key, result.reference) for result in results] == [(f"k{n}", r) for n, r in enumerate(references)]
    assert all(result.label == result.top_k[0][0] and len(result.top_k) == 2 for result in results)
    assert all(0 < result.score <= 1 and result.version == "tiny:1" for result in results)


def test_a_small_job_is_classified_in_one_call(mill: Mill) -> None:
    there = mill.write_images(3, prefix="once")
    missing = f"{mill.images.as_uri()}/never-written.png"
    results = mill.client.classify([*there, missing], model="tiny", top_k=2, timeout_s=60)
    assert [(result.position, result.reference) for result in results] == list(enumerate([*there, missing]))
    assert all(len(result.top_k) == 2 and result.version == "tiny:1" for result in results[:3])
    assert results[3].error.kind == "missing"
    job = mill.client.submit([*there, missing], model="tiny", top_k=2)
    assert mill.client.wait(job.job_id, timeout_s=60).state == "partial"
    assert [one.label for one in mill.client.results(job.job_id)] == [one.label for one in results]


def test_one_call_takes_bytes_a_repeated_key_and_a_job_of_many_parts(mill: Mill) -> None:
    references = mill.write_images(3, prefix="calls")
    [one] = mill.client.classify_bytes([Path(messages.local_path(references[0])).read_bytes()], model="tiny")
    [twin] = mill.client.classify(references[:1], model="tiny", idempotency_key=f"call-{mill.settings.home.name}")
    [again] = mill.client.classify(references[:1], model="tiny", idempotency_key=f"call-{mill.settings.home.name}")
    assert again == twin
    assert one.score == pytest.approx(twin.score, abs=1e-4)
    many = mill.client.classify(references * 350, model="tiny", top_k=1, timeout_s=120)
    assert [result.position for result in many] == list(range(1050))
    assert len({result.label for result in many[::3]}) == 1


def test_one_call_says_no_and_not_yet(mill: Mill) -> None:
    references = mill.write_images(1, prefix="no")
    with pytest.raises(Refused, match="No version of a model 'nobody' serves"):
        mill.client.classify(references, model="nobody", timeout_s=60)
    with pytest.raises(Unfinished, match="not all of its images have an outcome"):
        mill.client.classify(references, model="tiny", timeout_s=0.0001)


def test_a_lost_notice_costs_time_alone(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RESEND_S", 0.5)
    lost: list[str] = []

    class Deaf(Listening):
        def hear(self, within_s: float) -> Notice | None:
            # As if Redis had forgotten the stream before anything was told.
            if not lost:
                lost.append(self._key)
                self._redis.unlink(self._key)
                return None
            return super().hear(within_s)

    monkeypatch.setattr(client, "Listening", Deaf)
    [result] = mill.client.classify(mill.write_images(1, prefix="lost"), model="tiny", timeout_s=60)
    assert lost
    assert result.label is not None


def test_many_callers_of_one_image_each_get_their_own_outcome(mill: Mill) -> None:
    references = mill.write_images(40, prefix="crowd")
    with ThreadPoolExecutor(20) as callers:
        told = list(callers.map(lambda one: mill.client.classify([one], model="tiny", timeout_s=60), references))
    assert [[result.reference for result in results] for results in told] == [[one] for one in references]


def test_the_queue_gives_what_the_bare_network_gives(mill: Mill) -> None:
    from pipeline import images, references
    from pipeline.serving.classifier import Classifier

    named = mill.write_images(8, prefix="bare")
    from db import registry, session

    with session.reading(mill.sessions) as reading:
        version = registry.version(reading, "tiny:1")
    import torch

    classifier = Classifier.open(
        version.reference, sha256=version.sha256, device=torch.device("cpu"), precision="fp32", batch_size=8
    )
    roots = references.Roots.parse(mill.settings.allowed_roots)
    pixels = [
        classifier.preprocess.pixels(images.decode(references.fetch(name, roots, max_bytes=10**6), images.Limits()))
        for name in named
    ]
    expected = classifier.predict(torch.stack(pixels), top_k=1)
    job = mill.client.submit(named, model="tiny")
    mill.client.wait(job.job_id, timeout_s=60)
    results = list(mill.client.results(job.job_id))
    assert [result.label for result in results] == [one.label for one in expected]
    assert [result.score for result in results] == pytest.approx([one.score for one in expected], abs=1e-4)


BARE = """
import json, sys, uuid
from celery import Celery
url, references = sys.argv[1], sys.argv[2:]
app = Celery(broker=url, backend=url)
job = str(uuid.uuid4())
answer = app.send_task("imagemill.submit.v1", kwargs={"job_id": job, "model": "tiny", "items": references},
                       queue="imagemill:intake").get(timeout=30)
assert not [name for name in sys.modules if name.split(".")[0] in ("worker", "pipeline", "db", "imagemill")]
print(json.dumps(answer))
"""


def test_a_bare_celery_message_by_name_is_answered_by_a_receipt(mill: Mill, tmp_path: Path) -> None:
    references = mill.write_images(3, prefix="foreign")
    # -I: neither this folder nor the checkout is importable there, and -S is not wanted, for Celery is.
    script = [sys.executable, "-I", "-c", BARE, mill.settings.broker_url, *references]
    told = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    receipt = json.loads(told.stdout)["ok"]
    assert (receipt["state"], receipt["num_received"]) == ("accepted", 3)
    assert mill.client.wait(receipt["job_id"], timeout_s=60).num_succeeded == 3


def test_a_malformed_bare_message_is_refused_with_a_sentence(mill: Mill) -> None:
    with pytest.raises(Refused, match="`items` must be a list") as refused:
        mill.client._ask("imagemill.submit.v1", {"job_id": str(uuid.uuid4()), "items": []})
    assert refused.value.kind == "invalid"


def test_small_images_travel_inside_the_message(mill: Mill) -> None:
    images = [
        Path(reference.removeprefix("file://")).read_bytes() for reference in mill.write_images(5, prefix="inline")
    ]
    job = mill.client.submit_bytes(images, model="tiny")
    status = mill.client.wait(job.job_id, timeout_s=60)
    results = list(mill.client.results(job.job_id))
    assert status.num_succeeded == 5
    assert all(result.reference.startswith(f"{mill.settings.inline_store}/") for result in results)


def test_the_same_key_is_the_same_job_and_another_body_is_refused(mill: Mill) -> None:
    references = mill.write_images(4, prefix="idem")
    key = str(uuid.uuid4())
    first = mill.client.submit(references, model="tiny", idempotency_key=key)
    again = mill.client.submit(references, model="tiny", idempotency_key=key)
    assert again.job_id == first.job_id
    with pytest.raises(Refused) as refused:
        mill.client.submit(references[:3], model="tiny", idempotency_key=key)
    assert refused.value.kind == "idempotency_conflict"
    assert mill.client.wait(first.job_id, timeout_s=60).num_done == 4


def test_a_retry_classifies_what_failed_and_keeps_the_rest(mill: Mill, imagemill: list[str]) -> None:
    there, missing = mill.write_images(2, prefix=f"retry-{mill.settings.home.name}")
    file = Path(missing.removeprefix("file://"))
    image = file.read_bytes()
    file.unlink()
    job = mill.client.submit([there, missing], model="tiny")
    assert mill.client.wait(job.job_id, timeout_s=60).state == "partial"
    file.write_bytes(image)
    retried = run(imagemill, mill, "jobs", "retry", job.job_id)
    assert "1 items" in retried.stdout
    assert mill.client.wait(job.job_id, timeout_s=60).state == "succeeded"
    assert set(mill.positions(job.job_id).values()) == {1}


def test_a_cancelled_job_keeps_what_was_recorded(mill: Mill) -> None:
    references = mill.write_images(20, prefix="cancel")
    job = mill.client.submit(references * 500, model="tiny")
    status = mill.client.cancel(job.job_id)
    assert status.state == "cancelled"
    assert len(list(mill.client.results(job.job_id))) == mill.client.status(job.job_id).num_done < 10_000


def test_the_command_line_waits_writes_and_tells_by_its_exit_code(
    mill: Mill, imagemill: list[str], tmp_path: Path
) -> None:
    good, also = mill.write_images(2, prefix="cli")
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(f'{{"reference": "{good}", "key": "a"}}\n{{"reference": "file:///nowhere.png", "key": "b"}}\n')
    whole = run(imagemill, mill, "submit", "--model", "tiny", "--wait", "--json", good, also)
    part = run(
        imagemill, mill, "submit", "--model", "tiny", "--out", str(tmp_path / "o.csv"), "--manifest", str(manifest)
    )
    assert (whole.returncode, json.loads(whole.stdout)["state"]) == (0, "succeeded")
    assert part.returncode == 1
    assert "1 failed" in part.stdout
    rows = (tmp_path / "o.csv").read_text().splitlines()
    assert len(rows) == 3
    assert "outside_roots" in rows[2]
    shown = run(imagemill, mill, "status", "--json")
    assert {"intake", "classify", "upkeep"} <= {worker["role"] for worker in json.loads(shown.stdout)["workers"]}


def run(imagemill: list[str], mill: Mill, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, **mill.settings.as_env()}
    return subprocess.run(
        [*imagemill, *arguments], env=environ, capture_output=True, text=True, check=False, timeout=90
    )
