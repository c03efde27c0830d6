"""Takes a task. Gives one Celery task per image, on a Redis of its own: prefork, one child per core, rows in SQL.

A round ends when the last row is in the table and all are read. Knows nothing of batches.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from celery import Celery, group
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session, sessionmaker

from bench.peers import processes, rounds
from bench.peers.rounds import Classified, Round, Task
from db import models, session
from worker.settings import Settings
from worker.stack import Stack

#: seconds the worker may take to load and to answer the first images
START_S = 120.0
#: seconds without a new row after which a round is given up
STALL_S = 60.0
#: seconds between two looks at the table at least, and per row that a look has to count
LOOK_S, LOOK_S_PER_ROW = 0.05, 1e-5


@contextmanager
def celery_per_image(task: Task) -> Iterator[Round]:
    """Start Redis and a worker; each round sends one task per image."""
    options = {"prefetch": 64, **task.options}
    with tempfile.TemporaryDirectory(prefix="im-peer-") as folder, Stack(settings=_settings(folder)) as stack:
        database_url = task.database or stack.settings.database_url
        told = Path(folder, "setup.json")
        told.write_text(
            json.dumps({
                "task": asdict(task), "broker_url": stack.settings.broker_url, "database_url": database_url, **options
            })
        )  # fmt: skip
        sessions = _create_tables(database_url)
        stack.start_redis()
        os.environ["IMAGEMILL_PEER_SETUP"] = str(told)  # read where the app is imported: here, and in the worker
        with processes.running(_command(), {}):
            app = importlib.import_module("bench.peers.celery_app").app
            _classified(app, sessions, task.images[: 16 * task.cores], patience_s=START_S)
            yield lambda: Classified(answers=_classified(app, sessions, task.images, patience_s=STALL_S))


def _settings(folder: str) -> Settings:
    return Settings(home=Path(folder)).resolved()


def _create_tables(database_url: str) -> sessionmaker[Session]:
    sessions = session.connect(database_url)
    models.metadata.create_all(session.engine_of(sessions))
    version = {
        "id": 1, "model": "peer", "number": 1, "arch": "", "num_classes": 1, "reference": "", "sha256": "",
        "source": "import", "metrics": {}, "num_parameters": 0,
    }  # fmt: skip
    with session.transaction(sessions) as writing:
        if writing.execute(select(models.Version.id)).first() is None:
            writing.execute(insert(models.Version), [version])
    return sessions


def _command() -> list[str]:
    return [
        sys.executable, "-m", "celery", "--app", "bench.peers.celery_app", "worker", "--pool", "prefork",
        "--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat",
    ]  # fmt: skip


def _classified(
    app: Celery, sessions: sessionmaker[Session], images: list[str], *, patience_s: float
) -> list[rounds.Answer]:
    job, classify = uuid.uuid4(), app.tasks["classify"]
    group(classify.s(str(job), position, path) for position, path in enumerate(images)).apply_async()
    _await_rows(sessions, job, len(images), patience_s)
    table = models.Outcome
    chosen = select(table.top_k).where(table.job_id == job).order_by(table.position)
    with session.reading(sessions) as reading:
        return [[(label, score) for label, score in top_k] for (top_k,) in reading.execute(chosen)]


def _await_rows(sessions: sessionmaker[Session], job: uuid.UUID, num_rows: int, patience_s: float) -> None:
    counting = select(func.count()).where(models.Outcome.job_id == job)
    seen, give_up_s = 0, time.monotonic() + patience_s
    while seen < num_rows:
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"Only {seen} of {num_rows} images were recorded.")
        time.sleep(max(LOOK_S, LOOK_S_PER_ROW * num_rows))
        with session.reading(sessions) as reading:
            now = reading.execute(counting).scalar_one()
        if now > seen:
            seen, give_up_s = now, time.monotonic() + patience_s


if __name__ == "__main__":
    sys.exit(rounds.main(celery_per_image))
