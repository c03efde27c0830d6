"""Takes a job's id and a version. Gives a job in which that version does the work again, and where the two disagree.

Knows nothing of the broker: the next sweep rings for the new job, and its progress is in the ledger.
"""

import sys
import time
import uuid
from argparse import Namespace
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from db import jobs, registry, session
from pipeline import stores
from pipeline.learning import comparison
from pipeline.learning.comparison import Disagreement
from worker import comparing, intake, messages, replays, runtime, sizing
from worker.cli import output
from worker.comparing import Comparing
from worker.messages import JobStatus
from worker.settings import Settings

#: seconds between two looks at the job
POLL_S = 0.5
#: changes printed at most; --json has all
MOST_CHANGES = 20


def replay(asked: Namespace, settings: Settings) -> int:
    """Have another version classify again what a job did; gives 1 unless it labelled all that was labelled before."""
    original = messages.parse_job_id(asked.job)
    with runtime.ledger(settings) as sessions:
        with session.transaction(sessions) as transaction:
            job, version = jobs.job(transaction, original), registry.version(transaction, asked.version)
            shard_size = sizing.shard_size(transaction, settings.shard_size, job.model, job.num_items)
            replayed = replays.replay(transaction, job, version, shard_size=shard_size)
            status = intake.job_status(transaction, replayed)
        if not asked.wait and not asked.report:
            _say(asked, status, version.name)
            return 0
        status = _wait(sessions, replayed, asked.timeout)
        with session.reading(sessions) as reading:
            seen = comparing.compare(reading, original, replayed, job.model)
    found = seen.found()
    if asked.report:
        _write(asked, settings, job, status, version.name, seen, found)
    if asked.json:
        output.as_json({"job": status, "replay_of": original, "disagreement": found})
    else:
        _print(job, status, version.name, found)
    return 0 if status.is_final and not found.num_failed and status.num_done == status.num_items else 1


def _write(
    asked: Namespace,
    settings: Settings,
    job: jobs.JobView,
    status: JobStatus,
    version: str,
    seen: Comparing,
    found: Disagreement,
) -> None:
    page = comparison.Comparison(
        model=job.model,
        before=job.version or "what served then",
        now=version,
        job_id=str(job.id),
        replay_id=status.job_id,
        at_s=time.time(),
        is_whole=status.is_final,
        found=found,
        differing=tuple(comparing.with_pictures(seen.most_differing(), settings.or_here())),
        failing=seen.failing,
    )
    with stores.written(Path(asked.report)) as opened:
        opened.write(comparison.render(page))
    print(f"{page.num_differing:,} images differ; the page is {asked.report}.", file=sys.stderr)


def _say(asked: Namespace, status: JobStatus, version: str) -> None:
    if asked.json:
        output.as_json(status)
        return
    print(f"Job {status.job_id} is {status.state}: {status.num_items:,} items for {version} to classify again.")
    print(f"See where they disagree with: imagemill jobs replay {asked.job} --version {version} --wait")


def _wait(sessions: sessionmaker[Session], job_id: uuid.UUID, timeout_s: float | None) -> JobStatus:
    """Wait until the job has ended, or for so many seconds."""
    give_up_s = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    said = None
    with session.reading(sessions) as reading:
        status = intake.job_status(reading, job_id)
    try:
        with output.progress("replayed", status.num_items) as show:
            while not status.is_final and time.monotonic() < give_up_s:
                show(status.num_done)
                if status.note and status.note != said:
                    output.errors().print(f"[yellow]{output.plain(status.note)}[/yellow]")
                said = status.note
                time.sleep(min(POLL_S, max(0.0, give_up_s - time.monotonic())))
                with session.reading(sessions) as reading:
                    status = intake.job_status(reading, job_id)
    except KeyboardInterrupt:
        print(f"Job {job_id} goes on without us: imagemill jobs show {job_id}", file=sys.stderr)
        raise
    return status


def _print(job: jobs.JobView, status: JobStatus, version: str, found: Disagreement) -> None:
    console = output.console()
    console.print(
        f"Job {status.job_id} {output.state(status.state)}: {status.num_done:,} of {status.num_items:,} items "
        f"classified again by {version}.",
        soft_wrap=True,
    )
    if found.num_mended:
        console.print(f"{found.num_mended:,} that failed before are labelled now.")
    if found.num_failed:
        console.print(f"{found.num_failed:,} failed; see why with: imagemill jobs errors {status.job_id}")
    if found.agreement is None or found.score_shift is None:
        console.print("There is nothing to compare yet.")
        return
    changed = [one for one in found.per_label if one.num_changed]
    console.print(
        f"[bold]{found.agreement:.1%} agree[/bold] with {job.version or 'what served then'}: "
        f"{found.num_agreeing:,} of {found.num_compared:,}. Scores moved by {found.score_shift:+.3f} in the mean.",
        soft_wrap=True,
    )
    output.table(
        "\nChanged, by the label before",
        ("label before", "items", "changed", "share", "mostly to"),
        [(one.label, one.num, one.num_changed, f"{one.changed:.1%}", one.mostly) for one in changed],
    )
    output.table(
        "\nFrom one label to another",
        ("before", "now", "items", "score before", "score now"),
        [(o.before, o.now, o.num, f"{o.score_before:.2f}", f"{o.score_now:.2f}") for o in found.changes[:MOST_CHANGES]],
    )
    for name, known in (("Held-out", found.held_out), ("Trained-on", found.trained_on)):
        if known is not None:
            console.print(
                f"{name} images with a label: {known.num:,}; both right {known.both_right:,}, only before "
                f"{known.only_before_right:,}, only now {known.only_now_right:,}, neither {known.neither_right:,} "
                f"(McNemar p {known.p:.3f}).",
                soft_wrap=True,
            )
    if not status.is_final:
        console.print(f"It goes on without us: imagemill jobs show {status.job_id}")
