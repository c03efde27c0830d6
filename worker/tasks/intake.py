"""Takes submissions, labels and questions from the intake queue. Gives answers. Knows nothing of how they are found."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from celery import current_app, shared_task, signals

from worker import counter, envelopes, heartbeat, intake, learning_desk, logs, messages, notices, runtime, showing
from worker.settings import read_settings

logs.take_over("intake")

#: Answered even if the worker dies in between: whoever asked asks again, with the same ids. Neither question nor answer
#: is shown in events, for both hold references.
ANSWERED = {
    "ignore_result": False,
    "acks_late": False,
    "Request": "worker.transport:Unshown",
    "resultrepr_maxsize": 1,
}

_desk: list[intake.Desk] = []
_learning_desk: list[learning_desk.LearningDesk] = []
_beating: list[heartbeat.Heartbeat] = []
_show: list[showing.Show] = []


@signals.worker_process_init.connect
def open_desks(**_: object) -> None:
    """Connect this child to the ledger before it takes work."""
    app = current_app._get_current_object()
    desks = runtime.open_or_end("intake", lambda: runtime.open_desks(app, read_settings()))
    if desks is not None:
        _desk.append(desks[0])
        _learning_desk.append(desks[1])
        desk = desks[0]
        count = partial(desk.quotas.count.renew, desk.sessions)
        _beating.append(runtime.start_heartbeat("intake", desk.sessions, chores=[count], meter=desk.meter))


@signals.worker_process_shutdown.connect
def close_desks(**_: object) -> None:
    """Say goodbye in the ledger."""
    while _beating:
        _beating.pop().stop()
    while _desk:
        if (tracer := _desk.pop().tracer) is not None:
            tracer.close()


@shared_task(name=messages.SUBMIT, bind=True, **ANSWERED)
def submit(self: Any, **submission: Any) -> dict[str, Any]:
    """Record a job, or a part of one."""
    return _serve(self, envelopes.with_trace(submission, getattr(self.request, "traceparent", None)))


@shared_task(name=messages.STATUS, bind=True, **ANSWERED)
def status(self: Any, job_id: Any = None) -> dict[str, Any]:
    """Tell how far a job is."""
    return _serve(self, {"job_id": job_id})


@shared_task(name=messages.RESULTS, bind=True, **ANSWERED)
def results(self: Any, job_id: Any = None, after: Any = -1, limit: Any = messages.MAX_PAGE_ITEMS) -> dict[str, Any]:
    """Give a page of a job's outcomes."""
    return _serve(self, {"job_id": job_id, "after": after, "limit": limit})


@shared_task(name=messages.CANCEL, bind=True, **ANSWERED)
def cancel(self: Any, job_id: Any = None) -> dict[str, Any]:
    """Cancel a job."""
    return _serve(self, {"job_id": job_id})


def _serve(task: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Answer a message together with those that wait behind it; Celery stores the answer to the first."""
    first = counter.Question(
        id=task.request.id, task=task.name, fields=fields, ignores_answer=bool(task.request.ignore_result)
    )
    began_s = time.time()
    served = counter.serve(_desk[0], [first, *counter.take_waiting(task.app)])
    if served[1:]:
        counter.answer(task.app, served[1:])
    told = [one.notice for one in served if one.notice]
    asked = [one.question.listened_for for one in served if one.question.listened_for]
    if told or asked:
        notices.tell(task.app, told, asked=asked)
    if served[1:]:
        _show_others(task, served[1:], began_s)
    return messages.reply_as_json(served[0].reply)


def _show_others(task: Any, served: Sequence[counter.Served], began_s: float) -> None:
    """Tell Flower of those that Celery does not know of."""
    if not _show:
        _show.append(showing.Show(task.app, task.request.hostname))
    answered = [
        showing.Answered(id=one.question.id, task=one.question.task, shown=one.question.shown) for one in served
    ]
    _show[0].tell(answered, began_s=began_s, ended_s=time.time())


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
