"""Takes a job: a checkpoint whose head is fitted, the images to train it on, and a settled recipe.

Gives what finetune.finetune gives, computed by several processes of this machine, one per device (DDP): `launch` starts
them with torchrun and watches them, `python -m pipeline.learning.distributed JOB.json` is one of them.
Knows nothing of labels, queues, or of who wants the result.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from pipeline import checkpoints, errors
from pipeline.errors import PipelineError
from pipeline.learning import jobs, ranks, states
from pipeline.learning.epochs import Epoch
from pipeline.learning.finetune import Trained
from pipeline.learning.jobs import Item, Job

__all__ = ["Item", "Job", "launch"]

#: where `-m pipeline.learning.distributed` is found
ROOT = Path(__file__).parents[2]
#: seconds between looks at the processes
LOOK_S = 0.1
#: seconds the processes have after SIGTERM
GRACE_S = 5.0


def launch(job: Job, *, folder: Path, keep_going: Callable[[], None], on_epoch: Callable[[Epoch], None]) -> Trained:
    """Train with `job.settled.num_processes` processes; raise what finetune.finetune raises, or PipelineError.

    `folder` holds the state to go on from. `keep_going` is called about ten times a second: while it sleeps the
    processes stand still, and when it raises they are stopped. Where memory runs out they are started again with
    half the images at a time, from the last whole epoch.
    """
    while True:
        try:
            return _attempt(job, folder, keep_going, on_epoch)
        except torch.OutOfMemoryError:
            share = job.micro_batch or -(-job.settled.batch_size // job.settled.num_processes)
            if share == 1:
                raise
        job = replace(job, micro_batch=(share + 1) // 2)


def _attempt(job: Job, folder: Path, keep_going: Callable[[], None], on_epoch: Callable[[Epoch], None]) -> Trained:
    _clear(folder)
    (folder / jobs.JOB).write_text(json.dumps({**job.as_dict(), "launcher": os.getpid()}))
    (folder / jobs.PERMIT).touch()
    relayed = 0
    with _started(job, folder) as process:
        while process.poll() is None:
            keep_going()
            (folder / jobs.PERMIT).touch()
            relayed += _relay(folder, relayed, on_epoch)
            time.sleep(LOOK_S)
    _relay(folder, relayed, on_epoch)
    if process.returncode:
        raise _failure(folder, process.returncode)
    return _read_trained(job, folder)


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in (jobs.EPOCHS, jobs.TRAINED, jobs.FAILED.format(rank="*"), jobs.LOST.format(rank="*")):
        for file in folder.glob(pattern):
            file.unlink()


@contextmanager
def _started(job: Job, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
        str(job.settled.num_processes), "-m", "pipeline.learning.distributed", str(folder / jobs.JOB),
    ]  # fmt: skip
    with (folder / jobs.LOG).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        # The processes it started have sessions of their own; they end when they see that it is gone.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _relay(folder: Path, num_relayed: int, on_epoch: Callable[[Epoch], None]) -> int:
    file = folder / jobs.EPOCHS
    rows = file.read_text().splitlines(keepends=True) if file.exists() else []
    fresh = [row for row in rows[num_relayed:] if row.endswith("\n")]
    for row in fresh:
        on_epoch(Epoch(**json.loads(row)))
    return len(fresh)


def _failure(folder: Path, code: int) -> Exception:
    for file in sorted(folder.glob(jobs.FAILED.format(rank="*"))):
        failed = json.loads(file.read_text())
        known = {"OutOfMemoryError": torch.OutOfMemoryError, "OSError": OSError}
        kind = known.get(failed["kind"], getattr(errors, failed["kind"], PipelineError))
        failure: Exception = kind(failed["message"])
        return failure
    tail = (folder / jobs.LOG).read_text(errors="replace").strip().splitlines()[-1:]
    return PipelineError(f"The training processes ended with exit code {code}; {jobs.LOG} ends: {' '.join(tail)}")


def _read_trained(job: Job, folder: Path) -> Trained:
    given = states.load(folder / jobs.TRAINED)
    if given is None:
        raise PipelineError(f"The training processes ended well, but left no {jobs.TRAINED}.")
    network = checkpoints.load(job.checkpoint, sha256=job.sha256).network
    network.load_state_dict(given["tensors"])
    network.requires_grad_(True)
    return Trained(
        network=network,
        start=Epoch(**given["start"]),
        epochs=tuple(Epoch(**row) for row in given["epochs"]),
        best=given["best"],
        ended=given["ended"],
        frozen=tuple(given["frozen"]),
        frozen_sha256=given["frozen_sha256"],
        notes=(*given["notes"], *_lost_notes(folder)),
    )


def _lost_notes(folder: Path) -> Iterator[str]:
    rows = {row for file in folder.glob(jobs.LOST.format(rank="*")) for row in file.read_text().splitlines()}
    for row in sorted(rows):
        lost = json.loads(row)
        yield f"lost during training: {lost['reference']}: {lost['reason']}"


if __name__ == "__main__":
    sys.exit(ranks.main(sys.argv[1:]))
