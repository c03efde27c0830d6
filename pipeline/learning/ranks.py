"""Takes the file of a job, as one of the processes that torchrun started.

Gives nothing but files: a line per epoch, the state to go on from, and in the end what was trained.
Knows nothing of labels, queues, or of who launched the job, but that it is there.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline import checkpoints, references
from pipeline.errors import PipelineError
from pipeline.learning import finetune, groups, jobs, layers, states
from pipeline.learning.epochs import Epoch
from pipeline.learning.finetune import Trained
from pipeline.learning.jobs import Job
from pipeline.learning.pixels import Lost, PixelCache
from pipeline.learning.views import Views

logger = logging.getLogger(__name__)

#: seconds a permit lasts: processes stand still between batches while whoever launched them does not renew it
PERMIT_S = 2.0
#: seconds between looks at the permit, and at whoever started this process
LOOK_S, WATCH_S = 0.1, 1.0
#: how long processes wait for each other: they stand still together for as long as serving needs the device
PATIENCE = timedelta(days=7)


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
        (folder / jobs.FAILED.format(rank=dist.get_rank())).write_text(failed)
        logger.exception("training ended by an error")
        return 1
    dist.destroy_process_group()
    return 0


def _train(job: Job, folder: Path) -> None:
    rank = dist.get_rank()
    device = torch.device(f"cuda:{rank}" if job.device == "cuda" else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for the collectives of nccl
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
            keep_going=partial(_wait_for_permit, folder / jobs.PERMIT),
            on_epoch=partial(_tell, folder / jobs.EPOCHS),
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
        on_lost=partial(_note_lost, folder / jobs.LOST.format(rank=dist.get_rank())),
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
        folder / jobs.TRAINED,
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
