"""Takes a job's name in a message of Dramatiq's. Gives it done, on Redis, with retries.

A worker is held dead after 10 s without a heartbeat instead of 60, and every tenth command looks for such, instead of
every thousandth. As a program it sends jobs. Knows nothing of who kills.
"""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers import notebook

#: milliseconds without a heartbeat after which a worker's messages are given to another
SILENT_MS = 10_000
#: commands of a million that look for dead workers
LOOKS = 100_000

dramatiq.set_broker(RedisBroker(url=os.environ[notebook.REDIS], heartbeat_timeout=SILENT_MS, maintenance_chance=LOOKS))


@dramatiq.actor(max_retries=10, min_backoff=1000)
def work(job: str) -> None:
    """Do a job."""
    notebook.work(job)


if __name__ == "__main__":
    notebook.send(work.send)
