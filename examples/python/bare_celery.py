"""Classify images with plain Celery and none of imagemill's code: one JSON line per image.

docs/messages.md says what travels. Usage: BROKER_URL=redis://:PASSWORD@HOST:6379/0 python bare_celery.py REFERENCE...
"""

import json
import os
import sys
import time
import uuid
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError as NoAnswer

FINAL = {"succeeded", "partial", "failed", "cancelled", "expired"}
PAGE = 1000

app = Celery("producer", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"], set_as_current=False)


def ask(task: str, **fields: Any) -> Any:
    """Send a message to intake and give its answer; one that was lost is sent again, and is the same question."""
    question = {"name": f"imagemill.{task}.v1", "task_id": str(uuid.uuid4()), "queue": "imagemill:intake"}
    for _ in range(12):
        try:
            answer = app.send_task(**question, kwargs=fields).get(timeout=5)
            break
        except NoAnswer:
            continue
    else:
        raise SystemExit("Intake did not answer. Does it run?")
    if "refused" in answer:
        raise SystemExit(answer["refused"]["message"])
    return answer["ok"]


def main(references: list[str]) -> None:
    """Submit, wait, and print the outcomes."""
    job_id = str(uuid.uuid4())
    items = [{"reference": reference, "key": f"image-{number}"} for number, reference in enumerate(references)]
    model = os.environ.get("MODEL", "default")
    job = ask("submit", job_id=job_id, model=model, priority="interactive", items=items)
    while job["state"] not in FINAL:
        time.sleep(0.1)
        job = ask("status", job_id=job_id)
    print(f"job {job_id} {job['state']}", file=sys.stderr)
    after = -1
    while page := ask("results", job_id=job_id, after=after, limit=PAGE):
        for result in page:
            error = result["error"] and result["error"]["message"]
            named = {name: result[name] for name in ("key", "reference", "label", "score")}
            print(json.dumps(named | {"error": error}))
        after = page[-1]["position"]


if __name__ == "__main__":
    main(sys.argv[1:])
