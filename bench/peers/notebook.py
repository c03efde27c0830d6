"""Takes what happens to jobs. Gives it as lines of one file, to which any number of processes append.

The work itself is to wait a little and say so. Standard library alone: every peer's environment imports it.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable

#: name the file, and the Redis
NOTEBOOK, REDIS = "IMAGEMILL_PEER_NOTEBOOK", "IMAGEMILL_PEER_REDIS"
#: seconds that one job takes
WORK_S = 0.002


def note(what: str, job: str) -> None:
    """Append a line: what happened, to which job, and when; one write, which no kill can cut in two."""
    book = os.open(os.environ[NOTEBOOK], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(book, f"{what} {job} {time.time():.6f}\n".encode())
    os.close(book)


def work(job: str) -> None:
    """Do a job."""
    note("begun", job)
    time.sleep(WORK_S)
    note("done", job)


def send(send_one: Callable[[str], object]) -> None:
    """Send as many jobs as each line of stdin says; a job counts once its queue has acknowledged it."""
    for line in sys.stdin:
        for _ in range(int(line)):
            job = str(uuid.uuid4())
            send_one(job)
            note("sent", job)
        print("sent", flush=True)
