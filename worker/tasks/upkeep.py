"""Takes beat's ticks from the upkeep queue. Gives swept ledgers. Knows nothing of what a sweep does."""

import logging
from functools import partial

from celery import current_app, shared_task, signals
from sqlalchemy.orm import Session, sessionmaker

from db import session, workers
from worker import bell, callbacks, heartbeat, intake, live, logs, messages, pruning, relay, ringing, runtime, ticking
from worker.meter import Meter
from worker.settings import read_settings

logs.take_over("upkeep")

log = logging.getLogger(__name__)

_sessions: list[sessionmaker[Session]] = []
_beating: list[heartbeat.Heartbeat] = []
_sending: list[callbacks.Sender] = []
_meters: list[Meter] = []
_rings: list[intake.Ring] = []
_pruning: list[pruning.Chore] = []


@signals.worker_process_init.connect
def open_ledger(**_: object) -> None:
    """Connect this child to the ledger before it takes work."""
    sessions = runtime.open_or_end("upkeep", lambda: runtime.open_ledger(read_settings()))
    if sessions is not None:
        _sessions.append(sessions)
        _meters.append(Meter())
        _rings.append(runtime.ringer(current_app._get_current_object(), sessions))
        _beating.append(runtime.start_heartbeat("upkeep", sessions, meter=_meters[0]))
        sender = runtime.start_sender(read_settings(), sessions)
        if sender is not None:
            _sending.append(sender)
        _pruning.append(pruning.Chore(sessions, read_settings()))


@signals.worker_process_shutdown.connect
def close_ledger(**_: object) -> None:
    """Say goodbye in the ledger."""
    while _sending:
        _sending.pop().stop()
    while _beating:
        _beating.pop().stop()


@shared_task(name=messages.SWEEP, acks_late=False, ignore_result=True)
def sweep() -> None:
    """Ring again for what was lost, and give dead workers' shards to others."""
    app = current_app._get_current_object()
    with session.transaction(_sessions[0]) as transaction:
        # A tick that arrives is beat's sign of life; who sent it, and from where, the message does not say.
        workers.beat(transaction, heartbeat.row("beat", name="beat", host="", pid=0, readings=None))
    num_ringing = partial(bell.num_ringing, app)
    swept = relay.sweep(_sessions[0], _rings[0], num_ringing, max_attempts=read_settings().max_attempts)
    swept.count(_meters[0])
    log.log(logging.INFO if swept.found_something else logging.DEBUG, "swept: %s", swept)
    ticking.sweep_runs(_sessions[0], partial(bell.ring_run, app))


@shared_task(name=messages.TICK, acks_late=False, ignore_result=True)
def tick() -> None:
    """Decide for each model whether it is retrained, and look after versions that were promoted of late."""
    app = current_app._get_current_object()
    settings = read_settings()
    ticking.tick(_sessions[0], settings, partial(bell.ring_run, app))
    live.tend(_sessions[0], settings, _rings[0])
    ringing.ring_all(partial(bell.ring_drift, app), ticking.models_to_watch(_sessions[0], settings))


@shared_task(name=messages.PRUNE, acks_late=False, ignore_result=True)
def prune() -> None:
    """Begin to delete what is older than it is to be kept, if anything is."""
    _pruning[0].start()
