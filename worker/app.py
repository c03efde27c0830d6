"""Takes settings. Gives the Celery app, configured as DECISIONS.md (Celery on Redis) says and why.

Knows nothing of torch or SQL: beat and Flower start from here.
"""

from typing import Any

from celery import Celery

from worker import messages
from worker.settings import Settings

#: Seconds one task may take: softly, then by SIGKILL. A sitting ends by itself long before.
SOFT_LIMIT_S, HARD_LIMIT_S = 240, 300
#: Seconds a child may take to import torch and load its model before it is held dead; Celery's 4.0 is a crash loop.
START_LIMIT_S = 180
#: What a worker of long tasks differs in: its lease in the ledger, not Celery, finds it dead.
UNLIMITED = {"task_soft_time_limit": None, "task_time_limit": None, "worker_disable_prefetch": True}


def create_app(
    settings: Settings, *, include: tuple[str, ...] = (), takes_hours: bool = False, amqp: type | None = None
) -> Celery:
    """Build the app that workers, beat, Flower and the command line share; it is not made the host's current one.

    A worker whose tasks take hours has no time limits, and reserves nothing while it is busy. `amqp` is what its
    messages travel by, if not Celery's own.
    """
    app = Celery("imagemill", set_as_current=False, include=include, amqp=amqp)
    app.conf.update(
        broker_url=settings.broker_url,
        result_backend=settings.broker_url,
        **_wire(),
        **_delivery(),
        **(_pool() | (UNLIMITED if takes_hours else {})),
        task_default_queue=messages.INTAKE_QUEUE,
        beat_schedule_filename=str(settings.home / "beat-schedule"),
        beat_max_loop_interval=30,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=True,
        enable_utc=True,
    )
    return app


def _wire() -> dict[str, Any]:
    return {
        "broker_transport_options": messages.transport_options(),
        "result_backend_transport_options": {"visibility_timeout": messages.VISIBILITY_TIMEOUT_S},
        "visibility_timeout": messages.VISIBILITY_TIMEOUT_S,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "task_ignore_result": True,
        "result_expires": 3600,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
    }


def _delivery() -> dict[str, Any]:
    return {
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": True,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


def _pool() -> dict[str, Any]:
    return {
        "worker_pool": "prefork",
        "worker_pool_start_method": "spawn",
        "worker_concurrency": 1,
        "worker_proc_alive_timeout": START_LIMIT_S,
        "worker_max_tasks_per_child": None,
        "task_soft_time_limit": SOFT_LIMIT_S,
        "task_time_limit": HARD_LIMIT_S,
    }
