"""Takes a job's name in a task of Celery's. Gives it done, with every setting that keeps a task on Redis.

The settings are imagemill's own, which docs/reliability.md explains, with 10 s until a silent worker's messages are
given to another. As a program it sends jobs. Knows nothing of who kills.
"""

from __future__ import annotations

import os

from celery import Celery

from bench.peers import notebook

#: seconds until the messages of a worker that died come back
SILENT_S = 10

app = Celery("bench.peers.queue_celery", broker=os.environ[notebook.REDIS])
app.conf.update(
    broker_transport_options={
        "visibility_timeout": SILENT_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "unacked_restore_limit": 100,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    },
    visibility_timeout=SILENT_S,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_channel_error_retry=True,
    task_acks_late=True,
    task_reject_on_worker_lost=False,
    task_retry_on_worker_lost=True,
    task_acks_on_failure=True,
    task_acks_on_timeout=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_pool_start_method="spawn",
    worker_proc_alive_timeout=180,
    worker_concurrency=1,
)


@app.task(name="work", max_retries=3, default_retry_delay=1)
def work(job: str) -> None:
    """Do a job."""
    notebook.work(job)


if __name__ == "__main__":
    notebook.send(lambda job: work.apply_async((job,)))
