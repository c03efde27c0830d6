"""Takes submissions and questions from the intake queue. Gives answers. Knows nothing of how they are found."""

from typing import Any

from celery import current_app, shared_task, signals

from worker import heartbeat, intake, logs, messages, runtime
from worker.settings import read_settings

logs.take_over()

#: Answered even if the worker dies in between: whoever asked asks again, with the same ids.
ANSWERED = {"ignore_result": False, "acks_late": False}

_desk: list[intake.Desk] = []
_beating: list[heartbeat.Heartbeat] = []


@signals.worker_process_init.connect
def open_desk(**_: object) -> None:
    """Connect this child to the ledger before it takes work."""
    app = current_app._get_current_object()
    desk = runtime.open_or_end("intake", lambda: runtime.open_desk(app, read_settings()))
    if desk is not None:
        _desk.append(desk)
        _beating.append(runtime.start_heartbeat("intake", desk.sessions))


@signals.worker_process_shutdown.connect
def close_desk(**_: object) -> None:
    """Say goodbye in the ledger."""
    while _beating:
        _beating.pop().stop()


@shared_task(name=messages.SUBMIT, **ANSWERED)
def submit(**submission: Any) -> dict[str, Any]:
    """Record a job, or a part of one."""
    return messages.reply_as_json(intake.submit(_desk[0], submission))


@shared_task(name=messages.STATUS, **ANSWERED)
def status(job_id: Any = None) -> dict[str, Any]:
    """Tell how far a job is."""
    return messages.reply_as_json(intake.status(_desk[0], job_id))


@shared_task(name=messages.RESULTS, **ANSWERED)
def results(job_id: Any = None, after: Any = -1, limit: Any = intake.MAX_PAGE_ITEMS) -> dict[str, Any]:
    """Give a page of a job's outcomes."""
    return messages.reply_as_json(intake.results(_desk[0], job_id, after=after, limit=limit))


@shared_task(name=messages.CANCEL, **ANSWERED)
def cancel(job_id: Any = None) -> dict[str, Any]:
    """Cancel a job."""
    return messages.reply_as_json(intake.cancel(_desk[0], job_id))
