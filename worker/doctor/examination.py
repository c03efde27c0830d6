"""Takes the settings. Gives all findings of an installation, or of the part that a worker's start depends on.

Knows nothing of how one thing is looked at. What does not answer is a finding, and ends nothing but its own part.
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from db import registry, session
from worker.app import create_app
from worker.client import BROKER_ERRORS, BrokerUnreachable, Client
from worker.doctor import broker, clocks, configuration, exposure, ledger, packages, storage
from worker.doctor.findings import Finding, InstallationUnsafe, Severity, away
from worker.settings import Settings

#: what a pool's parent imports before it starts children
TASKS = ("worker.tasks.intake", "worker.tasks.classify", "worker.tasks.learn", "worker.tasks.upkeep")


def before_start(app: Celery, settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Look at what a worker's start depends on, in a fraction of a second; the schema has been compared already.

    The version of Redis is not among it: no start makes an old one worse, and a distribution mends its own builds.
    Raises `InstallationUnsafe`, with one sentence, if work would be lost.
    """
    found = [*configuration.check(app.conf, settings, environ), *packages.check(settings)]
    with suppress(*BROKER_ERRORS), broker.connected(app) as server:
        # Redis that went away this moment says nothing against it: a worker waits for it.
        found += broker.policy(server, tries=False)
    for one in found:
        if one.severity == Severity.UNSAFE:
            raise InstallationUnsafe(
                f"{one.what.rstrip('.')}: {one.why}. No worker starts like this; {one.mend} (imagemill doctor)."
            )
    return [one for one in found if one.severity == Severity.WARNING]


def everything(settings: Settings, environ: Mapping[str, str], files: Mapping[str, Path]) -> Iterator[Finding]:
    """Look at all there is; a part that is away is named, and the others are looked at."""
    for name in TASKS:
        importlib.import_module(name)  # as the parent of a pool does
    app = create_app(settings)
    yield from configuration.check(app.conf, settings, environ)
    yield configuration.user()
    yield from packages.check(settings)
    yield from _broker(app, settings)
    yield from _ledger(settings)
    yield storage.store(settings.store)
    yield storage.home(settings.home)
    yield from storage.disks(storage.folders(settings.home, settings.store, settings.database_url))
    yield from exposure.flower(settings, environ)
    yield from exposure.roots(settings)
    yield from exposure.secret_files(files)


def _broker(app: Celery, settings: Settings) -> Iterator[Finding]:
    try:
        with Client(settings.broker_url) as client:
            client.ping()  # which waits for nobody, as the app's own connection does
        with broker.connected(app) as server:
            yield broker.version(server)
            yield from broker.access(server)
            yield from broker.policy(server, tries=True)
            yield from clocks.check({"Redis": lambda: broker.clock_s(server)})
    except (BrokerUnreachable, *BROKER_ERRORS) as gone:
        yield away("redis", str(gone), mend="start it, or mend IMAGEMILL_BROKER_URL")


def _ledger(settings: Settings) -> Iterator[Finding]:
    with session.connected(settings.database_url) as sessions:
        yield from ledger.place(settings.database_url)
        schema = ledger.schema(sessions)
        yield schema
        if schema.severity == Severity.OK:
            yield from ledger.commits(sessions)
            yield from clocks.check({"the ledger": lambda: _clock_s(sessions)})
            yield from _versions(sessions)


def _versions(sessions: sessionmaker[Session]) -> Iterator[Finding]:
    with session.reading(sessions) as reading:
        models = registry.models(reading)
        serving = [one.version for model in models if (one := registry.serving(reading, model))]
        open_ids = {id_ for model in models for id_ in registry.open_versions(reading, model)}
        pinned = [registry.by_id(reading, id_) for id_ in sorted(open_ids - {one.id for one in serving})]
    yield from map(storage.version, serving)
    yield from map(storage.pinned, pinned)


def _clock_s(sessions: sessionmaker[Session]) -> float:
    with session.reading(sessions) as reading:
        return session.clock(reading)
