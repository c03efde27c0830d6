"""Takes one image's path in a task. Gives its row in the table `outcomes`, committed before the acknowledgement.

Configured as Celery's guide to optimising says for many short tasks. What the children need comes from a file.
Knows nothing of rounds, or of who sends.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from celery import Celery, signals
from sqlalchemy import Engine, Insert
from sqlalchemy.dialects import postgresql, sqlite

from bench.peers import network
from bench.peers.rounds import Task
from db import models, session

#: names the file that holds the worker's task, broker and database
SETUP = "IMAGEMILL_PEER_SETUP"
#: images that classify a child as warm before it takes tasks
WARM_UP_SIZE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the worker is told."""

    task: Task
    broker_url: str
    database_url: str
    #: messages a child may hold, besides the one it works on
    prefetch: int

    @classmethod
    def read(cls, file: Path) -> Setup:
        """Read what the program wrote."""
        told = json.loads(file.read_text())
        return cls(**{**told, "task": Task(**told["task"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    """What one process of the pool holds warm."""

    network: network.Network
    engine: Engine
    insert: Insert


setup = Setup.read(Path(os.environ[SETUP]))
app = Celery("peer", broker=setup.broker_url)
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    # The outcome is in SQL, so no result is stored a second time.
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=setup.prefetch,
    worker_concurrency=setup.task.cores,
    worker_send_task_events=False,
    worker_disable_rate_limits=True,
    worker_proc_alive_timeout=60,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600},
)
_children: list[_Child] = []


@signals.worker_process_init.connect
def _open(**_: Any) -> None:
    torch.set_num_threads(1)
    engine = session.engine_of(session.connect(setup.database_url))
    dialect = sqlite if engine.dialect.name == "sqlite" else postgresql
    ready = network.load(setup.task.arch, setup.task.weights, setup.task.num_classes)
    ready.warm_up(WARM_UP_SIZE)
    # A late acknowledgement may bring a task twice; its row stays one.
    insert = dialect.insert(models.Outcome.__table__).on_conflict_do_nothing()
    _children.append(_Child(network=ready, engine=engine, insert=insert))


@app.task(name="classify")
def classify(job: str, position: int, path: str) -> None:
    """Classify one image and record its outcome."""
    here = _children[0]
    answer = here.network.answers([here.network.pixels(path)])[0]
    row = {
        "job_id": uuid.UUID(job), "position": position, "shard_id": 1, "key": None, "reference": path,
        "label": answer[0][0], "score": answer[0][1], "top_k": answer, "version_id": 1,
    }  # fmt: skip
    with here.engine.begin() as connection:
        connection.execute(here.insert, row)
