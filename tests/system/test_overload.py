"""More work than may wait is refused at every door, with the time to come again; nothing that was accepted suffers."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from celery import Celery

from tests.mills import open_mill
from worker.client import Refused

#: what a Celery producer without our code sends
TOO_MUCH = {"job_id": "11111111-2222-4333-8444-555555555555", "model": "tiny", "items": ["file:///1.png"]}


def test_a_full_queue_refuses_bulk_serves_interactive_work_and_takes_bulk_again_once_it_has_drained(
    home: Path, imagemill: list[str]
) -> None:
    with open_mill(home, models=("tiny",), max_waiting_items=400) as mill:
        references = mill.write_images(20, prefix="full")
        child = mill.child_pid("classify")
        os.kill(child, signal.SIGSTOP)
        try:
            bulk = mill.client.submit(references * 20, model="tiny")
            with pytest.raises(Refused, match="The queue is full: 400 items wait of 400 that may") as refused:
                mill.client.submit(references, model="tiny")
            assert (refused.value.kind, refused.value.retry_after_s) == ("queue_full", 60.0)
            asked = [*imagemill, "submit", "--model", "tiny", *references]
            environ = {**os.environ, **mill.settings.as_env()}
            said = subprocess.run(asked, env=environ, capture_output=True, text=True, check=False, timeout=60)
            assert (said.returncode, said.stdout) == (1, "")
            assert said.stderr.startswith("imagemill: The queue is full: 400 items wait of 400 that may ")
            assert said.stderr.endswith(" and this job has 20. Try again in about 60 s.\n")
            url = mill.settings.broker_url
            with Celery("bare", broker=url, backend=url, set_as_current=False) as bare:
                sent = bare.send_task("imagemill.submit.v1", kwargs=TOO_MUCH, queue="imagemill:intake")
                no = sent.get(timeout=60)["refused"]
            assert (no["kind"], no["retry_after_s"]) == ("queue_full", 60.0)
            urgent = mill.client.submit(references, model="tiny", priority="interactive")
        finally:
            os.kill(child, signal.SIGCONT)
        assert mill.client.wait(urgent.job_id, timeout_s=60).state == "succeeded"
        [one] = mill.client.classify(references[:1], model="tiny", timeout_s=60)
        assert one.label is not None
        assert mill.client.wait(bulk.job_id, timeout_s=60).state == "succeeded"
        again = mill.client.submit(references * 20, model="tiny")
        assert mill.client.wait(again.job_id, timeout_s=60).state == "succeeded"
        assert mill.positions(bulk.job_id) == mill.positions(again.job_id) == dict.fromkeys(range(400), 1)
