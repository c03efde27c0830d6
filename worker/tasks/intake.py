"""Takes submissions, labels and questions from the intake queue. Gives answers. Knows nothing of how they are found."""

from typing import Any

from celery import current_app, shared_task, signals

from worker import heartbeat, intake, learning_desk, logs, messages, runtime
from worker.settings import read_settings

logs.take_over()

#: Answered even if the worker dies in between: whoever asked asks again, with the same ids.
ANSWERED = {"ignore_result": False, "acks_late": False}

_desk: list[intake.Desk] = []
_learning_desk: list[learning_desk.LearningDesk] = []
_beating: list[heartbeat.Heartbeat] = []


@signals.worker_process_init.connect
def open_desks(**_: object) -> None:
    """Connect this child to the ledger before it takes work."""
    app = current_app._get_current_object()
    desks = runtime.open_or_end("intake", lambda: runtime.open_desks(app, read_settings()))
    if desks is not None:
        _desk.append(desks[0])
        _learning_desk.append(desks[1])
        _beating.append(runtime.start_heartbeat("intake", desks[0].sessions))


@signals.worker_process_shutdown.connect
def close_desks(**_: object) -> None:
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


@shared_task(name=messages.LABELS, **ANSWERED)
def label(**labels: Any) -> dict[str, Any]:
    """Record labels."""
    return messages.reply_as_json(learning_desk.label(_learning_desk[0], labels))


@shared_task(name=messages.RETRAIN, **ANSWERED)
def retrain(**wish: Any) -> dict[str, Any]:
    """Ask for a run."""
    return messages.reply_as_json(learning_desk.retrain(_learning_desk[0], wish))


@shared_task(name=messages.RUN_STATUS, **ANSWERED)
def run_status(run: Any = None) -> dict[str, Any]:
    """Tell how far a run is."""
    return messages.reply_as_json(learning_desk.run_status(_learning_desk[0], run))
