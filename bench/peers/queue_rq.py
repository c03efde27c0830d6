"""Takes a job's name in a job of RQ's. Gives it done, with retries for those whose worker died.

A job without a heartbeat is held abandoned 60 s after the next was due, which RQ fixes. A worker that waits for work
looks for such jobs only when its wait is over: 15 s before its `worker-ttl`, which is 420 s unless it is told.
As a program it sends jobs. Knows nothing of who kills.
"""

from __future__ import annotations

import os

from redis import Redis
from rq import Queue, Retry

from bench.peers import notebook


def work(job: str) -> None:
    """Do a job."""
    notebook.work(job)


if __name__ == "__main__":
    queue = Queue(connection=Redis.from_url(os.environ[notebook.REDIS]))
    # By its name elsewhere: here this module is `__main__`.
    notebook.send(
        lambda job: queue.enqueue("bench.peers.queue_rq.work", job, retry=Retry(max=10), result_ttl=60, job_timeout=60)
    )
