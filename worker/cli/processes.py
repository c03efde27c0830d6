"""Takes a role. Gives a process that plays it until it is told to stop. Knows nothing of the other processes."""

import logging
import os
import socket
from argparse import Namespace
from collections.abc import Sequence

from worker import app, logs, messages, schedule
from worker.cli import output
from worker.settings import Settings, SettingsInvalid

log = logging.getLogger(__name__)

#: Keys of what Flower has taken and not acknowledged, which is nothing: so that it needs no right to the workers'.
FLOWERS_OWN = {f"unacked{part}_key": f"flower:unacked{part}" for part in ("", "_index", "_mutex")}


def worker(asked: Namespace, settings: Settings) -> int:
    """Run one Celery worker: one child, which owns the device. Raises `InstallationUnsafe`."""
    from worker import draining, runtime, transport
    from worker.doctor import examination

    queues = _queues(asked.role, settings.models)
    watch = draining.Watch(runtime.open_ledger(settings), (socket.gethostname(), os.getpid()), queues)
    _reach_broker(settings)
    watch.start()
    logs.set_up(settings.log_level, form=settings.log_format, role=asked.role)
    transport.take_no_orders()
    celery = app.create_app(
        settings,
        include=(f"worker.tasks.{asked.role}",),
        takes_hours=asked.role == "learn",
        amqp=transport.Checking,
    )
    celery.steps["consumer"].add(draining.step(watch))
    for found in examination.before_start(celery, settings, os.environ):
        log.warning("%s (%s) To mend it: %s.", found.what, found.why, found.mend)
    celery.worker_main(
        [
            *("worker", "--hostname", f"{asked.role}{asked.number or ''}@%h", "--queues", ",".join(queues)),
            *("--task-events", "-O", "fair", "--without-mingle", "--without-gossip"),
            *("--loglevel", settings.log_level),
        ]
    )
    return 0


def beat(_: Namespace, settings: Settings) -> int:
    """Run the scheduler."""
    _reach_broker(settings)
    logs.set_up(settings.log_level, form=settings.log_format, role="beat")
    settings.home.mkdir(parents=True, exist_ok=True)
    beat_app = schedule.create_beat_app(settings)
    beat_app.Beat(loglevel=settings.log_level, pidfile=None, socket_timeout=30).run()
    return 0


def flower(asked: Namespace, settings: Settings) -> int:
    """Run Flower, read-only and behind its password; its page and its API show short texts, never references."""
    if ":" not in settings.flower_basic_auth:
        raise SettingsInvalid("Flower never runs open: set IMAGEMILL_FLOWER_BASIC_AUTH=user:password (or ..._FILE).")
    if "," in settings.flower_basic_auth:
        raise SettingsInvalid("IMAGEMILL_FLOWER_BASIC_AUTH may hold no comma: Flower would read a second user there.")
    _reach_broker(settings)
    # By the environment, for a password among the arguments would show in the process list.
    os.environ["FLOWER_BASIC_AUTH"] = settings.flower_basic_auth
    port = asked.port or settings.flower_port
    celery = schedule.create_beat_app(settings)
    celery.conf.broker_transport_options |= FLOWERS_OWN
    # Flower need not ask for events: our workers always send them.
    quiet = ("--read-only", "--enable_events=false", "--logging=warning")
    celery.start(["flower", f"--address={asked.address}", f"--port={port}", *quiet])
    return 0


def health(asked: Namespace, settings: Settings) -> int:
    """Tell whether a worker of this role on this host has beaten lately; beat itself shows by the ticks that arrive.

    It asks the ledger alone: a worker without Redis waits for it, and is well.
    """
    from db import session, workers
    from worker import runtime

    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        alive = workers.list_alive(reading, within_s=asked.within)
    here = [one for one in alive if one.role == asked.role and one.host in (socket.gethostname(), "")]
    if asked.json:
        output.as_json({"role": asked.role, "alive": bool(here), "workers": here})
    return 0 if here else 1


def upgrade(asked: Namespace, settings: Settings) -> int:
    """Bring the ledger's schema to this code's revision."""
    from db import migrate

    settings.home.mkdir(parents=True, exist_ok=True)
    migrate.upgrade(settings.database_url)
    _say_revision(asked, migrate.head())
    return 0


def check(asked: Namespace, settings: Settings) -> int:
    """Compare the ledger's schema with this code's revision."""
    from db import migrate
    from worker import runtime

    with runtime.ledger(settings):
        pass  # the schema is this code's
    _say_revision(asked, migrate.head())
    return 0


def _say_revision(asked: Namespace, revision: str) -> None:
    if asked.json:
        output.as_json({"revision": revision})
    else:
        output.console().print(f"The ledger's schema is at revision {revision}.")


def _queues(role: str, models: Sequence[str]) -> tuple[str, ...]:
    """Name a role's queues in the order they are served: every model's interactive one ahead of any bulk one."""
    if role == "classify":
        return tuple(messages.classify_queue(model, urgency) for urgency in messages.PRIORITIES for model in models)
    return ({"intake": messages.INTAKE_QUEUE, "upkeep": messages.UPKEEP_QUEUE, "learn": messages.LEARN_QUEUE}[role],)


def _reach_broker(settings: Settings) -> None:
    """Make sure that Redis answers before a process starts that would retry for ever. Raises `BrokerUnreachable`."""
    from worker.client import Client

    with Client(settings.broker_url) as client:
        client.ping()
