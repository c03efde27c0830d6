"""Takes a job: a checkpoint whose head is fitted, the images to train it on, and a settled recipe.

Gives what finetune.finetune gives, computed by several processes of this machine, one per device (DDP): `launch` starts
them with torchrun and watches them, `python -m pipeline.learning.distributed JOB.json` is one of them.
Knows nothing of labels, queues, or of who wants the result.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline import checkpoints, errors, images, references
from pipeline.errors import PipelineError
from pipeline.learning import finetune, groups, layers, states
from pipeline.learning.epochs import Epoch
from pipeline.learning.finetune import Trained
from pipeline.learning.pixels import Lost, PixelCache
from pipeline.learning.recipes import Settled
from pipeline.learning.views import Views

logger = logging.getLogger(__name__)

#: where `-m pipeline.learning.distributed` is found
ROOT = Path(__file__).parents[2]
#: files of the job's folder, beside the state of the run
JOB, PERMIT, EPOCHS, LOG, TRAINED = "job.json", "permit", "epochs.jsonl", "processes.log", "trained.pt"
#: one per process that ended by an error it knows, or lost an image
FAILED, LOST = "failed-{rank}.json", "lost-{rank}.jsonl"
#: seconds between looks at the processes, and at whoever started them
LOOK_S, WATCH_S = 0.1, 1.0
#: seconds a permit lasts: processes stand still between batches while whoever launched them does not renew it
PERMIT_S = 2.0
#: seconds the processes have after SIGTERM
GRACE_S = 5.0
#: how long they wait for each other: they stand still together for as long as serving needs the device
PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A labelled image."""

    sha256: str
    reference: str
    #: number of its class
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything the processes need to know, as JSON values and references."""

    #: checkpoint to train from, its head already fitted
    checkpoint: str
    #: of its card
    sha256: str
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    settled: Settled
    seed: int
    #: where references may point
    roots: tuple[str, ...]
    limits: images.Limits
    #: bytes of decoded images kept in memory, over all processes
    max_cache_bytes: int
    #: "cpu" (gloo) or "cuda" (nccl, one device per process)
    device: str
    #: threads that compute, and threads that decode, in each process
    num_threads: int
    #: images in one forward pass; None: as many as the recipe says, shared out
    micro_batch: int | None = None

    def as_dict(self) -> dict[str, object]:
        """Give the fields as JSON values."""
        return {**asdict(self), "settled": self.settled.as_dict()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Job:
        """Read what `as_dict` gave, before or after JSON."""
        limits = images.Limits(**{**given["limits"], "formats": tuple(given["limits"]["formats"])})
        lists = {name: tuple(Item(**row) for row in given[name]) for name in ("train", "val")}
        settled = Settled.from_dict(given["settled"])
        return cls(**{**given, **lists, "limits": limits, "settled": settled, "roots": tuple(given["roots"])})


# ---------------------------------------------------------------- whoever launches


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
    (folder / JOB).write_text(json.dumps({**job.as_dict(), "launcher": os.getpid()}))
    (folder / PERMIT).touch()
    relayed = 0
    with _started(job, folder) as process:
        while process.poll() is None:
            keep_going()
            (folder / PERMIT).touch()
            relayed += _relay(folder, relayed, on_epoch)
            time.sleep(LOOK_S)
    _relay(folder, relayed, on_epoch)
    if process.returncode:
        raise _failure(folder, process.returncode)
    return _read_trained(job, folder)


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in (EPOCHS, TRAINED, FAILED.format(rank="*"), LOST.format(rank="*")):
        for file in folder.glob(pattern):
            file.unlink()


@contextmanager
def _started(job: Job, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
        str(job.settled.num_processes), "-m", "pipeline.learning.distributed", str(folder / JOB),
    ]  # fmt: skip
    with (folder / LOG).open("ab") as log:
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
    file = folder / EPOCHS
    rows = file.read_text().splitlines(keepends=True) if file.exists() else []
    fresh = [row for row in rows[num_relayed:] if row.endswith("\n")]
    for row in fresh:
        on_epoch(Epoch(**json.loads(row)))
    return len(fresh)


def _failure(folder: Path, code: int) -> Exception:
    for file in sorted(folder.glob(FAILED.format(rank="*"))):
        failed = json.loads(file.read_text())
        known = {"OutOfMemoryError": torch.OutOfMemoryError, "OSError": OSError}
        kind = known.get(failed["kind"], getattr(errors, failed["kind"], PipelineError))
        failure: Exception = kind(failed["message"])
        return failure
    tail = (folder / LOG).read_text(errors="replace").strip().splitlines()[-1:]
    return PipelineError(f"The training processes ended with exit code {code}; {LOG} ends: {' '.join(tail)}")


def _read_trained(job: Job, folder: Path) -> Trained:
    given = states.load(folder / TRAINED)
    if given is None:
        raise PipelineError(f"The training processes ended well, but left no {TRAINED}.")
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
    rows = {row for file in folder.glob(LOST.format(rank="*")) for row in file.read_text().splitlines()}
    for row in sorted(rows):
        lost = json.loads(row)
        yield f"lost during training: {lost['reference']}: {lost['reason']}"


# ---------------------------------------------------------------- one of the processes


def main(arguments: list[str]) -> int:
    """Be one of the processes that torchrun started; give its exit code."""
    logging.basicConfig(level=logging.INFO)
    file = Path(arguments[0])
    given = json.loads(file.read_text())
    launcher, folder = given.pop("launcher"), file.parent
    job = Job.from_dict(given)
    threading.Thread(target=_watch, args=(launcher, os.getppid()), daemon=True).start()
    torch.set_num_threads(job.num_threads)
    dist.init_process_group("nccl" if job.device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        _train(job, folder)
    except (PipelineError, OSError, torch.OutOfMemoryError) as error:
        kind = "OSError" if isinstance(error, OSError) else type(error).__name__
        failed = json.dumps({"kind": kind, "message": str(error)})
        (folder / FAILED.format(rank=dist.get_rank())).write_text(failed)
        logger.exception("training ended by an error")
        return 1
    dist.destroy_process_group()
    return 0


def _train(job: Job, folder: Path) -> None:
    rank = dist.get_rank()
    device = torch.device(f"cuda:{rank}" if job.device == "cuda" else "cpu")
    loaded = checkpoints.load(job.checkpoint, sha256=job.sha256)
    preprocess = loaded.card.preprocess
    train, val = _pictures(job, folder, loaded.card)
    with ThreadPoolExecutor(job.num_threads) as threads:
        trained = finetune.finetune(
            loaded.network,
            layers.layers(loaded.network, preprocess.crop_size),
            train=train,
            train_targets=[item.target for item in job.train],
            val=val,
            val_targets=[item.target for item in job.val],
            num_classes=len(loaded.card.classes),
            preprocess=preprocess,
            settled=job.settled,
            seed=job.seed,
            device=device,
            folder=folder,
            keep_going=partial(_wait_for_permit, folder / PERMIT),
            on_epoch=partial(_tell, folder / EPOCHS),
            threads=threads,
            world=groups.Group(device),
            micro_batch=job.micro_batch,
        )
    if rank == 0:
        _write_trained(folder, trained)


def _pictures(job: Job, folder: Path, card: checkpoints.Card) -> tuple[Views, Views]:
    roots = references.Roots(prefixes=job.roots)

    def fetch(reference: str) -> bytes:
        return references.fetch(reference, roots, max_bytes=job.limits.max_bytes)

    cache = PixelCache(
        [(item.sha256, item.reference) for item in (*job.train, *job.val)],
        fetch=fetch,
        limits=job.limits,
        preprocess=card.preprocess,
        max_bytes=job.max_cache_bytes // dist.get_world_size(),
        on_lost=partial(_note_lost, folder / LOST.format(rank=dist.get_rank())),
    )
    num_train = len(job.train)
    halves = tuple(range(num_train)), tuple(range(num_train, num_train + len(job.val)))
    train, val = (Views(cache, half, card.preprocess, job.settled) for half in halves)
    return train, val


def _note_lost(file: Path, lost: Lost) -> None:
    _append(file, {"reference": lost.reference, "reason": lost.reason})


def _tell(file: Path, epoch: Epoch) -> None:
    _append(file, epoch.as_dict())


def _append(file: Path, row: Mapping[str, object]) -> None:
    with file.open("a") as opened:
        opened.write(json.dumps(row) + "\n")


def _write_trained(folder: Path, trained: Trained) -> None:
    tensors = {name: tensor.cpu() for name, tensor in trained.network.state_dict().items()}
    states.save(
        folder / TRAINED,
        {
            "tensors": tensors,
            "start": trained.start.as_dict(),
            "epochs": [epoch.as_dict() for epoch in trained.epochs],
            "best": trained.best,
            "ended": trained.ended,
            "frozen": list(trained.frozen),
            "frozen_sha256": trained.frozen_sha256,
            "notes": list(trained.notes),
        },
    )


def _wait_for_permit(file: Path) -> None:
    while time.time() - file.stat().st_mtime > PERMIT_S:
        time.sleep(LOOK_S)


def _watch(launcher: int, parent: int) -> None:
    """End this process, even in the middle of a collective, when torchrun or whoever launched it is gone."""
    while os.getppid() == parent and _is_there(launcher):
        time.sleep(WATCH_S)
    os._exit(1)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
