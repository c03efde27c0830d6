"""Takes a job's id. Gives what the ledger knows of it. Knows nothing of the broker: it works while Redis is down."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from db import callbacks, jobs, outcomes, session
from worker import export, intake, messages, runtime, sizing
from worker.cli import output
from worker.messages import JobStatus, Result
from worker.settings import Settings

#: Outcomes shown on a terminal at most.
MOST_ROWS = 50


def listed(asked: Namespace, settings: Settings) -> int:
    """Print the newest jobs."""
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        newest = jobs.jobs(reading, limit=asked.limit, state=asked.state)
    if asked.json:
        output.as_json(newest)
        return 0
    output.table(
        "Jobs",
        ("job", "state", "model", "version", "items", "done", "failed", "priority", "created"),
        (
            (
                job.id, output.state(job.state), job.model, job.version or "latest", job.num_items,
                job.num_succeeded + job.num_failed, job.num_failed, job.priority, output.when(job.created_at_s),
            )
            for job in newest
        ),
    )  # fmt: skip
    return 0


def show(asked: Namespace, settings: Settings) -> int:
    """Print one job."""
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        job = jobs.job(reading, messages.parse_job_id(asked.job))
        status = intake.job_status(reading, job.id)
        callback = callbacks.of_job(reading, job.id)
    if asked.json:
        output.as_json(asdict(status) | ({} if callback is None else {"callback": _shown(callback)}))
    else:
        _print(job, status, callback)
    return 0


def results(asked: Namespace, settings: Settings) -> int:
    """Print or write every outcome."""
    return _outcomes(asked, settings, errors=None)


def errors(asked: Namespace, settings: Settings) -> int:
    """Print or write the items that failed."""
    return _outcomes(asked, settings, errors=True)


def cancel(asked: Namespace, settings: Settings) -> int:
    """Cancel a job; a job that has ended is refused."""
    job_id = messages.parse_job_id(asked.job)
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        jobs.cancel(transaction, job_id)
        status = intake.job_status(transaction, job_id)
    _say(
        asked,
        status,
        f"Job {job_id} is cancelled; {status.num_done} of {status.num_items} outcomes are kept.",
    )
    return 0


def retry(asked: Namespace, settings: Settings) -> int:
    """Put what failed or was left undone back in line; the next sweep rings for it."""
    job_id = messages.parse_job_id(asked.job)
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        job = jobs.job(transaction, job_id)
        shard_size = sizing.shard_size(transaction, settings.shard_size, job.model, job.num_items)
        num_waiting = jobs.retry(transaction, job_id, shard_size=shard_size)
        status = intake.job_status(transaction, job_id)
    again = f"{num_waiting} items of job {job_id} wait again."
    _say(asked, status, again if num_waiting else f"Job {job_id} has nothing to retry: every item is labelled.")
    return 0


def _say(asked: Namespace, status: JobStatus, sentence: str) -> None:
    if asked.json:
        output.as_json(status)
    else:
        print(sentence)


def _outcomes(asked: Namespace, settings: Settings, *, errors: bool | None) -> int:
    job_id = messages.parse_job_id(asked.job)
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        jobs.job(reading, job_id)
        recorded = map(intake.as_result, outcomes.stream(reading, job_id, errors=errors))
        if asked.out:
            count = export.write(recorded, Path(asked.out), asked.format)
            print(f"{count} outcomes are in {asked.out}.", file=sys.stderr)
        elif asked.format == "csv":
            export.write_csv(recorded, sys.stdout)
        elif asked.format == "parquet":
            raise export.FormatUnknown("Parquet goes to a file: give --out FILE.")
        elif sys.stdout.isatty() and not asked.json and not asked.format:
            _table(recorded, errors=bool(errors))
        else:
            export.write_jsonl(recorded, sys.stdout)
    return 0


def _table(recorded: Iterator[Result], *, errors: bool) -> None:
    """Show the first outcomes to a person."""
    shown = list(islice(recorded, MOST_ROWS))
    if errors:
        output.table("Items that failed", ("item", "stage", "what happened"), map(_failure, shown))
    else:
        output.table("Outcomes", ("item", "label", "score", "version"), map(_outcome, shown))
    if next(recorded, None):
        output.console().print(f"These are the first {MOST_ROWS}; --out FILE writes all, --json prints them.")


def _failure(result: Result) -> tuple[object, ...]:
    error = result.error
    return (result.key or result.reference, error and error.stage, error and error.message)


def _outcome(result: Result) -> tuple[object, ...]:
    said = result.error.message if result.error else result.label
    return (result.key or result.reference, said, result.score and f"{result.score:.3f}", result.version)


def _shown(callback: callbacks.Callback) -> dict[str, object]:
    """Give what became of a callback, without its URL, whose query may hold a secret."""
    return {name: value for name, value in asdict(callback).items() if name not in ("job_id", "url")}


def _told(callback: callbacks.Callback) -> str:
    said = {"waiting": "to be told of the end", "sent": "sent", "given_up": "given up"}[callback.state]
    if callback.state == "waiting" and callback.attempts:
        said = f"next attempt {output.when(callback.next_at_s)}"
    tries = f" after {callback.attempts} attempts" if callback.attempts > 1 else ""
    return f"{callback.host}, {said}{tries}" + (f": {callback.error}" if callback.error else "")


def _print(job: jobs.JobView, status: JobStatus, callback: callbacks.Callback | None) -> None:
    console = output.console()
    console.print(f"[bold]Job {job.id}[/bold] {output.state(job.state)}")
    if status.note:
        console.print(f"[yellow]{output.plain(status.note)}[/yellow]")
    ended_s = job.finished_at_s
    for name, value in (
        ("model", f"{job.model}, version {job.version or 'latest'}"),
        ("items", f"{status.num_done:,} of {job.num_items:,} done, {job.num_failed:,} failed"),
        ("priority", job.priority),
        ("key", job.idempotency_key),
        ("caller", job.caller),
        ("created", output.when(job.created_at_s)),
        ("started", output.when(job.started_at_s)),
        ("finished", output.when(ended_s)),
        ("took", output.took(ended_s - job.created_at_s) if ended_s else None),
        ("callback", _told(callback) if callback else None),
    ):
        if value:
            console.print(f"  {name:9} {output.plain(value)}")
