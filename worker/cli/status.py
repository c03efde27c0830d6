"""Takes the settings. Gives one screen about the running stack, and the settings themselves.

Knows nothing of how the stack is started.
"""

from argparse import Namespace
from dataclasses import fields

from db import jobs, migrate, pauses, registry, session, unfinished, workers
from db.models import EVERY_MODEL
from worker import bell, messages, runtime, sizing, troubles
from worker.app import create_app
from worker.cli import output
from worker.client import Client, ClientError
from worker.settings import Settings

#: What is said of a broker that answers.
ANSWERS = "answers"


def status(asked: Namespace, settings: Settings) -> int:
    """Show in one screen what runs, what waits and which version is warm where; gives 1 if the broker is away."""
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        alive = workers.list_alive(reading, within_s=sizing.ALIVE_S)
        waiting = jobs.waiting_items(reading)
        num_unfinished = unfinished.by_caller(reading).total()
        models = registry.models(reading)
        serving = {model: registry.serving(reading, model) for model in models}
        running_jobs = [
            job for job in jobs.jobs(reading, limit=50) if job.state in ("receiving", "accepted", "running")
        ]
        barred = {model: troubles.bars(alive, model, one.version.name) for model, one in serving.items() if one}
        paused = pauses.pauses(reading)
        now_s = session.clock(reading)
    broker, ringing = _broker(settings)
    if asked.json:
        output.as_json(
            {
                "broker": broker,
                "queues": ringing,
                "workers": alive,
                "paused": paused,
                "waiting": waiting,
                "num_unfinished": num_unfinished,
                "max_waiting_items": settings.max_waiting_items or None,
                "serving": {model: pointer.version.name for model, pointer in serving.items() if pointer},
                "barred": {model: why for model, why in barred.items() if why},
                "jobs": running_jobs,
            }
        )
        return _code(broker)
    console = output.console()
    console.print(f"[bold]Broker[/bold] {output.without_password(settings.broker_url)}: {output.plain(broker)}")
    console.print(f"[bold]Ledger[/bold] {output.without_password(settings.database_url)}: schema {migrate.head()}")
    most = f" of {settings.max_waiting_items:,} that may be" * bool(settings.max_waiting_items)
    console.print(f"[bold]Queue[/bold] {num_unfinished:,} items without an outcome{most}")
    for model in (model for model, why in barred.items() if why):
        console.print(
            f"[bold red]Broken[/bold red] What serves as {output.plain(model)} can be loaded by no worker, and its new "
            f"work waits. `imagemill models rollback {output.plain(model)}` has the version before serve."
        )
    if paused:
        _print_paused(paused)
    _print_status(alive, waiting, serving, running_jobs, ringing, now_s)
    return _code(broker)


def _code(broker: str) -> int:
    return 0 if broker == ANSWERS else 1


def _print_status(
    alive: list[workers.Alive],
    waiting: list[jobs.Backlog],
    serving: dict[str, registry.Serving | None],
    unfinished: list[jobs.JobView],
    ringing: dict[str, int],
    now_s: float,
) -> None:
    output.table(
        "\nWorkers",
        ("worker", "state", "serves", "warm", "device", "beat", "trouble"),
        (
            (
                one.name, _state(one), ", ".join(one.models), ", ".join(one.warm),
                one.device if one.role == "classify" else "",
                f"{max(0.0, now_s - one.heartbeat_at_s):.0f} s ago", _trouble(one),
            )
            for one in alive
        ),
    )  # fmt: skip
    output.table(
        "\nServing",
        ("model", "version", "architecture", "classes"),
        ((m, p.version.name, p.version.arch, p.version.num_classes) for m, p in serving.items() if p),
    )
    output.table(
        "\nWaiting",
        ("model", "version", "priority", "items", "shards", "oldest"),
        (
            (
                one.model,
                one.version or "latest",
                one.priority,
                one.num_items,
                one.num_shards,
                output.took(one.oldest_s),
            )
            for one in waiting
        ),
    )
    output.table(
        "\nBells in Redis",
        ("queue", "waiting"),
        ((queue, count) for queue, count in ringing.items() if count),
    )
    output.table(
        "\nUnfinished jobs",
        ("job", "state", "model", "items", "done", "failed"),
        (
            (
                one.id,
                output.state(one.state),
                one.model,
                one.num_items,
                one.num_succeeded + one.num_failed,
                one.num_failed,
            )
            for one in unfinished
        ),
    )


def _print_paused(paused: list[pauses.Paused]) -> None:
    output.table(
        "\nPaused",
        ("model", "work", "since", "by", "why"),
        (
            ("all" if one.model == EVERY_MODEL else one.model, one.work, output.when(one.at_s), one.who, one.reason)
            for one in paused
        ),
    )


def _state(one: workers.Alive) -> str:
    """Say what a worker does, or how far it is with what is asked of it."""
    if one.drain is None:
        return output.state(one.state)
    return output.state("drained" if one.drain.drained_at_s else "draining")


def _trouble(one: workers.Alive) -> str | None:
    if one.drain is None:
        return one.message
    reason = f": {one.drain.reason}" * bool(one.drain.reason)
    return f"asked to drain by {one.drain.who} at {output.when(one.drain.at_s)}{reason}"


def _broker(settings: Settings) -> tuple[str, dict[str, int]]:
    app = create_app(settings)
    queues = [messages.classify_queue(model, urgency) for model in settings.models for urgency in messages.PRIORITIES]
    try:
        with Client(settings.broker_url) as client:
            client.ping()
        return ANSWERS, bell.num_ringing(app, [messages.INTAKE_QUEUE, messages.UPKEEP_QUEUE, *queues])
    except ClientError as away:
        return str(away), {}


def settings(asked: Namespace, known: Settings) -> int:
    """Print every setting; passwords in URLs are hidden."""
    rows = [
        (
            f"IMAGEMILL_{item.name.upper()}",
            _shown(item.name, getattr(known, item.name)),
            item.metadata["about"],
        )
        for item in fields(known)
    ]
    if asked.json:
        output.as_json([{"variable": name, "value": value, "about": about} for name, value, about in rows])
    else:
        output.table("Settings", ("variable", "value", "meaning"), rows)
    return 0


def _shown(name: str, value: object) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    if name == "flower_basic_auth" and text:
        return f"{text.partition(':')[0]}:***"
    if name in ("webhook_token", "metrics_token") and text:
        return "***"
    return output.without_password(text)
