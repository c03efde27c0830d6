"""Takes a model, or a run's number. Gives runs: asked for, listed, followed, cancelled, and their reports.

Knows nothing of how a run goes.
"""

import getpass
import time
import webbrowser
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from db import errors as db_errors
from db import gates, runs, session
from worker import bell, retraining, runtime
from worker.app import create_app
from worker.cli import output
from worker.client import BROKER_ERRORS
from worker.settings import Settings

#: seconds between two looks at a run
POLL_S = 0.5
#: states a run has ended in
ENDED = ("succeeded", "failed", "cancelled")
#: exit code of a verdict that is no
REFUSED = 3


def retrain(asked: Namespace, settings: Settings) -> int:
    """Ask for a run; gives 3 if the playbook or the gate says no to it, once it has been waited for."""
    wish = retraining.Wish(
        model=asked.model,
        asked_by=getpass.getuser(),
        reason=asked.reason or "asked for by hand",
        strategy=asked.strategy,
        base=asked.base,
        is_forced=asked.force,
        seed=asked.seed,
    )
    with runtime.ledger(settings) as sessions:
        requested = retraining.request(sessions, settings, wish)
        run = requested.run
        if requested.is_new:
            _ring(settings, run.id)
        if asked.wait:
            run = _follow(sessions, run.id, is_quiet=asked.json)
    if asked.json:
        output.as_json(run)
        return _code(run) if asked.wait else 0
    if not requested.is_new:
        print(f"Run {run.id} of {run.model} is not over yet, and a model has one at a time.")
    if asked.wait:
        _print_run(run)
        return _code(run)
    print(f"Run {run.id} of {run.model} is {run.state}. Follow it with: imagemill runs show {run.id}")
    return 0


def listed(asked: Namespace, settings: Settings) -> int:
    """Print the newest runs."""
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        newest = runs.runs(reading, asked.limit, model=asked.model)
    if asked.json:
        output.as_json(newest)
        return 0
    output.table(
        "Runs",
        ("run", "model", "state", "step", "verdict", "version", "asked by", "why", "created", "took"),
        (
            (
                run.id, run.model, output.state(run.state), run.step if run.state == "running" else "",
                run.verdict and output.state(run.verdict), run.version, run.asked_by, run.reason,
                output.when(run.created_at_s), _took(run),
            )
            for run in newest
        ),
    )  # fmt: skip
    return 0


def show(asked: Namespace, settings: Settings) -> int:
    """Print one run: steps, evidence, verdict."""
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        run = runs.run(reading, asked.run)
        steps = runs.steps(reading, asked.run)
        gate = gates.by_run(reading, asked.run)
    if asked.json:
        output.as_json({"run": run, "steps": list(steps.values()), "gate": gate})
        return 0
    _print_run(run)
    output.table(
        "\nSteps",
        ("step", "took"),
        (
            (name, output.took(row.finished_at_s - row.started_at_s) if row.finished_at_s else "not done")
            for name, row in steps.items()
        ),
    )
    if gate is not None:
        output.table(
            "\nThe gate",
            ("check", "passed", "what was found"),
            (
                (check["name"], {True: "yes", False: "no", None: "not asked"}[check["passed"]], check["sentence"])
                for check in gate.numbers["checks"]
            ),
        )
    return 0


def cancel(asked: Namespace, settings: Settings) -> int:
    """Cancel a run; whoever works on it stops at its next batch."""
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        state = runs.cancel(transaction, asked.run)
    if asked.json:
        output.as_json({"run": asked.run, "state": state})
    else:
        print(f"Run {asked.run} is cancelled." if state == "cancelled" else f"Run {asked.run} stops within seconds.")
    return 0


def report(asked: Namespace, settings: Settings) -> int:
    """Say where a run's report lies, and open it in a browser if there is one."""
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        run = runs.run(reading, asked.run)
    if run.report is None:
        raise db_errors.UnknownRun(f"Run {run.id} has no report yet: it is {run.state}.")
    if asked.json:
        output.as_json({"run": run.id, "report": run.report})
        return 0
    print(run.report)
    if asked.open and run.report.startswith("file://"):
        webbrowser.open(run.report)
    return 0


def _ring(settings: Settings, run_id: int) -> None:
    """Ring for a run; while the broker is away, the next sweep does."""
    app = create_app(settings)
    try:
        with app.connection_for_write(connect_timeout=5) as connection:
            connection.ensure_connection(max_retries=1)
        bell.ring_run(app, run_id)
    except BROKER_ERRORS:
        output.errors().print("[yellow]Redis does not answer; the run begins once the stack is up.[/yellow]")
    finally:
        app.close()


def _follow(sessions: sessionmaker[Session], run_id: int, *, is_quiet: bool) -> runs.Run:
    with _shown(is_quiet=is_quiet) as tell:
        while True:
            with session.reading(sessions) as reading:
                run = runs.run(reading, run_id)
            tell(run)
            if run.state in ENDED:
                return run
            time.sleep(POLL_S)


@contextmanager
def _shown(*, is_quiet: bool) -> Iterator[Callable[[runs.Run], None]]:
    """Show a run's step as it goes: in place on a terminal, else a line for each."""
    console = output.errors()
    last = ""

    def tell(run: runs.Run) -> None:
        nonlocal last
        said = _doing(run)
        if said != last and not is_quiet:
            console.print(f"[dim]{said}[/dim]", soft_wrap=True)
        last = said

    yield tell


def _doing(run: runs.Run) -> str:
    if run.state != "running":
        return f"run {run.id} {run.state}"
    progress: dict[str, Any] = run.progress or {}
    if run.step == "train" and progress:
        return (
            f"run {run.id} train: {progress['strategy']}, epoch {progress['epoch']} of {progress['of']}, "
            f"validation {progress['val_balanced_accuracy']:.3f}"
        )
    return f"run {run.id} {run.step}"


def _print_run(run: runs.Run) -> None:
    console = output.console()
    console.print(f"[bold]Run {run.id}[/bold] of {run.model} {output.state(run.state)}")
    plan = (run.plan or {}).get("plan", {})
    for name, value in (
        ("asked by", f"{run.asked_by}: {run.reason}"),
        ("starts from", run.base),
        ("champion", run.parent),
        ("plan", plan and f"{plan['cell']} -> {' or '.join(plan['candidates']) or 'not recommended'}"),
        ("version", run.version),
        ("verdict", run.verdict),
        ("error", run.error_message),
        ("step", run.step if run.state not in ENDED else None),
        ("created", output.when(run.created_at_s)),
        ("took", _took(run)),
        ("report", run.report),
    ):
        if value:
            console.print(f"  {name:11} {output.plain(value)}", soft_wrap=True)


def _took(run: runs.Run) -> str:
    return output.took(run.finished_at_s - run.created_at_s) if run.finished_at_s else ""


def _code(run: runs.Run) -> int:
    if run.state != "succeeded":
        return 1
    return 0 if run.verdict == "promote" else REFUSED
