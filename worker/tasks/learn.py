"""Takes a run's id from the learn queue. Gives a run that has ended, or that another worker goes on with.

Knows nothing of how a model learns. The message is acknowledged at once: a run may take hours, and its lease in the
ledger, not the message, is what somebody else takes over.
"""

import logging
import os
import signal
import threading
from typing import Any

from celery import shared_task, signals

from db.errors import LedgerError
from worker import learning_messages, logs, messages, runtime
from worker.learner import Learner
from worker.settings import read_settings

logs.take_over()

log = logging.getLogger(__name__)

#: Sent by the pool's parent to its child when the worker is being stopped: a run of hours is not waited for.
STOP_SIGNAL = signal.SIGUSR2

_learners: list[Learner] = []
_is_stopping = threading.Event()
_controllers: list[Any] = []


@signals.worker_init.connect
def remember_controller(sender: Any = None, **_: object) -> None:
    """Keep, in the pool's parent, what knows the child's process id."""
    _controllers.append(sender)


@signals.worker_shutting_down.connect
def tell_child(**_: object) -> None:
    """Let the child's run stop at its next batch, so that it is given back before the grace period is over."""
    for controller in _controllers:
        for pid in (controller.pool.info or {}).get("processes", ()) if controller.pool else ():
            os.kill(pid, STOP_SIGNAL)


@signals.worker_process_init.connect
def open_learner(**_: object) -> None:
    """Connect this child to the ledger before it takes work."""
    signal.signal(STOP_SIGNAL, lambda *_: _is_stopping.set())
    learner = runtime.open_or_end("learn", lambda: runtime.open_learner(read_settings(), _is_stopping.is_set))
    if learner is not None:
        _learners.append(learner)


@signals.worker_process_shutdown.connect
def close_learner(**_: object) -> None:
    """Stop the heartbeat and close the pool."""
    while _learners:
        _learners.pop().close()


@shared_task(name=messages.LEARN, acks_late=False, ignore_result=True, max_retries=0)
def learn(run: Any = None) -> None:
    """Do a run's steps, from the first that is not done."""
    try:
        told = _learners[0].learn(learning_messages.parse_run_id(run))
    except messages.MessageInvalid as wrong:
        log.warning("a bell of no run is dropped: %s", wrong)
        return
    except LedgerError as away:
        # The run's lease runs out, and a sweep rings for it again.
        told = f"left for later: {away}"
    log.info("run %s: %s", run, told)


@shared_task(name=messages.WATCH_DRIFT, acks_late=False, ignore_result=True, max_retries=0)
def watch_drift(model: Any = None) -> None:
    """Compare what the serving version said of late with what it says of the frozen test images."""
    try:
        told = _learners[0].watch_drift(messages.parse_model(model))
    except messages.MessageInvalid as wrong:
        log.warning("a look at no model's drift is dropped: %s", wrong)
        return
    except LedgerError as away:
        told = f"looked at later: {away}"
    log.info("drift of %s: %s", model, told)
