"""Takes images to hand over. Gives a job, and its progress and outcomes if asked to wait. Knows nothing of SQL."""

import sys
import time
import uuid
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from worker import export, manifests, messages, tracing
from worker.cli import output
from worker.client import Client, ClientError
from worker.messages import Item, JobStatus, Receipt
from worker.settings import Settings

#: Seconds between two lines of progress where no terminal shows a bar.
LINE_EVERY_S = 5.0


def submit(asked: Namespace, settings: Settings) -> int:
    """Submit, and wait and write as asked. Gives 1 if the job did not wholly succeed."""
    source = _source(asked)
    with Client(settings.broker_url) as client:
        receipt = _submit(asked, settings, client, source)
        if not asked.wait and not asked.out:
            _say_receipt(asked, receipt)
            return 0
        status = _wait(client, receipt.job_id, asked)
        if asked.out and status.is_final:
            export.write(client.results(receipt.job_id), Path(asked.out), None)
        _say_end(asked, status)
    return 0 if status.state == "succeeded" else 1


def _submit(asked: Namespace, settings: Settings, client: Client, source: manifests.Source) -> Receipt:
    tracer, job_id = tracing.open_tracer(settings, "cli"), str(uuid.uuid4())
    try:
        with tracing.submitting(tracer, job_id) as traceparent:
            return client.submit_items(
                source,
                model=asked.model,
                version=asked.version,
                priority=asked.priority,
                idempotency_key=asked.key,
                top_k=asked.top_k,
                deadline_s=asked.deadline,
                caller="cli",
                callback=asked.callback,
                job_id=job_id,
                traceparent=traceparent,
            )
    finally:
        if tracer:
            tracer.close()


def _source(asked: Namespace) -> manifests.Source:
    if bool(asked.references) == bool(asked.manifest):
        raise manifests.ManifestInvalid("Give references, or --manifest FILE: one of the two.")
    if asked.out:
        export.format_of(Path(asked.out), None)
    if asked.manifest:
        return manifests.from_manifest(Path(asked.manifest))
    source = manifests.from_references(asked.references)
    return _inline(source) if asked.inline else source


def _inline(source: manifests.Source) -> manifests.Source:
    """Read the images one by one as they are sent; the key is the name they had."""

    def read() -> Iterator[Item]:
        for item in source():
            path = Path(messages.local_path(item.reference))
            try:
                yield Item(inline=path.read_bytes(), key=str(path))
            except OSError as wrong:
                raise manifests.ManifestInvalid(f"{path} cannot be read: {wrong.strerror}.") from None

    return read


def _wait(client: Client, job_id: str, asked: Namespace) -> JobStatus:
    try:
        with _progress(asked) as show:
            return client.wait(job_id, timeout_s=asked.timeout, on_progress=show)
    except (ClientError, KeyboardInterrupt):
        print(f"Job {job_id} goes on without us: imagemill jobs show {job_id}", file=sys.stderr)
        raise


@contextmanager
def _progress(asked: Namespace) -> "Iterator[_Bar | _Lines | None]":
    if asked.json:
        yield None
    elif sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=output.errors(),
            transient=True,
        ) as progress:
            yield _Bar(progress)
    else:
        yield _Lines()


class _Bar:
    """Progress on a terminal: a bar with rate and time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._began_s = time.monotonic()

    def __call__(self, status: JobStatus) -> None:
        if self._task is None:
            self._task = self._progress.add_task(status.state, total=status.num_items, rate="")
        rate = status.num_done / max(1e-3, time.monotonic() - self._began_s)
        failed = f", {status.num_failed} failed" if status.num_failed else ""
        self._progress.update(
            self._task,
            completed=status.num_done,
            description=status.note or f"{status.model} {status.state}",
            rate=f"{rate:,.0f}/s{failed}",
        )


class _Lines:
    """Progress where nobody watches: a line when something changed, at most one in `LINE_EVERY_S` seconds."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._spoke_s = float("-inf")
        self._last = ""

    def __call__(self, status: JobStatus) -> None:
        now_s = time.monotonic()
        rate = status.num_done / max(1e-3, now_s - self._began_s)
        left = f", {(status.num_items - status.num_done) / rate:.0f} s left" if rate and not status.is_final else ""
        line = (
            f"{status.note or status.state}: {status.num_done} of {status.num_items} done, {status.num_failed} failed"
        )
        if line != self._last and (status.is_final or now_s - self._spoke_s >= LINE_EVERY_S):
            print(f"{line}, {rate:.0f}/s{left}", file=sys.stderr, flush=True)
            self._spoke_s, self._last = now_s, line


def _say_receipt(asked: Namespace, receipt: messages.Receipt) -> None:
    if asked.json:
        output.as_json(receipt)
        return
    print(f"Job {receipt.job_id} is {receipt.state}: {receipt.num_items} items.")
    print(f"Follow it with: imagemill jobs show {receipt.job_id}")


def _say_end(asked: Namespace, status: JobStatus) -> None:
    if asked.json:
        output.as_json(status)
        return
    console = output.console()
    took = output.took(status.finished_at_s - status.created_at_s) if status.finished_at_s else "unfinished"
    console.print(
        f"Job {status.job_id} {output.state(status.state)}: "
        f"{status.num_succeeded} labelled by {status.version or 'the latest'}, {status.num_failed} failed, {took}."
    )
    if asked.out and status.is_final:
        console.print(f"Outcomes are in {output.plain(asked.out)}.")
    if status.num_failed:
        console.print(f"See why with: imagemill jobs errors {status.job_id}")
    if not status.is_final:
        console.print(f"It goes on without us: imagemill jobs show {status.job_id}")
