"""Takes a run's id from the learn queue. Gives a run that has ended, or that another worker goes on with.

Knows nothing of how a model learns. The message is acknowledged at once: a run may take hours, and its lease in the
ledger, not the message, is what somebody else takes over.
"""

import logging
from functools import partial
from typing import Any

from celery import current_app, shared_task, signals

from db.errors import LedgerError
from worker import bell, learning_messages, lines, logs, messages, ringing, runtime, stopping
from worker.learner import Learner
from worker.settings import read_settings

logs.take_over("learn")

log = logging.getLogger(__name__)

_learners: list[Learner] = []


@signals.worker_process_init.connect
def open_learner(**_: object) -> None:
    """Connect this child to the ledger before it takes work."""
    stopping.listen()
    learner = runtime.open_or_end("learn", lambda: runtime.open_learner(read_settings(), stopping.is_stopping))
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
        number = learning_messages.parse_run_id(run)
    except messages.MessageInvalid as wrong:
        log.warning("a bell of no run is dropped: %s", wrong)
        return
    with lines.about(run=number):
        _learn(number)


def _learn(run: int) -> None:
    try:
        told = _learners[0].learn(run)
    except LedgerError as away:
        # The run's lease runs out, and a sweep rings for it again.
        told = f"left for later: {away}"
    log.info("run %s: %s", run, told)
    if stopping.is_stopping():
        # Whoever else learns goes on at once, not with the next sweep; a bell too many finds nothing to claim.
        ringing.ring_all(partial(bell.ring_run, current_app._get_current_object()), [run])


@shared_task(name=messages.WATCH_DRIFT, acks_late=False, ignore_result=True, max_retries=0)
def watch_drift(model: Any = None) -> None:
    """Compare what the serving version said of late with what it says of the frozen test images."""
    try:
        name = messages.parse_model(model)
    except messages.MessageInvalid as wrong:
        log.warning("a look at no model's drift is dropped: %s", wrong)
        return
    with lines.about(model=name):
        try:
            told = _learners[0].watch_drift(name)
        except LedgerError as away:
            told = f"looked at later: {away}"
        log.info("drift of %s: %s", name, told)
