"""Takes what training gave. Gives it back to the worker that goes on with the run, after a crash too.

Knows nothing of how it is used. The weights are written last and renamed, so a file that is there is whole.
"""

import shutil
from dataclasses import asdict
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from db import runs, session
from pipeline import errors, failpoints, stores
from pipeline.learning import evaluation
from pipeline.learning.recipes import Settled
from worker.learning.material import Material
from worker.learning.training import Trained
from worker.learning.trials import Trial
from worker.learning.workshop import Workshop

#: the weights of the trained network, what it says of the validation images, and what heads say out of fold
FILE = "trained.safetensors"
_VAL, _OUT_OF_FOLD, _NETWORK = "val_logits", "out_of_fold", "network."


def keep(workshop: Workshop, run_id: int, trained: Trained) -> dict[str, Any]:
    """Write the chosen network into the run's folder, and give the rest as JSON values. Raises `OSError`."""
    chosen = trained.chosen
    tensors: dict[str, Tensor] = {
        _VAL: chosen.val_logits,
        _OUT_OF_FOLD: trained.cross_validated.probabilities,
        **{_NETWORK + name: tensor for name, tensor in chosen.network.state_dict().items()},
    }
    folder = workshop.run_folder(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    packed = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with stores.written(folder / FILE) as opened:
        opened.write(safetensors.torch.save(packed))
        failpoints.reach("mid_trained_write")
    failpoints.reach("after_trained_rename")
    return {
        "strategy": chosen.strategy,
        "reason": trained.reason,
        "trials": [_as_dict(trial, is_chosen=trial is chosen) for trial in trained.trials],
        "head": asdict(trained.cross_validated.chosen),
    }


def recall(workshop: Workshop, run_id: int, result: dict[str, Any], material: Material) -> Trial:
    """Give the chosen network again. Raises `CheckpointBroken` if its file is gone, on another host's disk, say."""
    file = workshop.run_folder(run_id) / FILE
    try:
        tensors = safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as gone:
        raise errors.CheckpointBroken(
            f"The trained network at {file} cannot be read ({gone}); ask for a new run."
        ) from gone
    network = material.start.network(len(material.snapshot.classes))
    network.load_state_dict(
        {name.removeprefix(_NETWORK): tensor for name, tensor in tensors.items() if name.startswith(_NETWORK)}
    )
    row = next(trial for trial in result["trials"] if trial["is_chosen"])
    return Trial(
        strategy=row["strategy"],
        network=network.to(workshop.device).eval(),
        val_logits=tensors[_VAL],
        metrics=evaluation.Metrics.from_dict(row["metrics"]),
        settled=Settled.from_dict(row["settled"]),
        standard_error=row["standard_error"],
        seconds=row["seconds"],
        frozen=tuple(row["frozen"]),
    )


def forget(workshop: Workshop, run_id: int) -> None:
    """Delete what a run that has ended would have resumed from."""
    shutil.rmtree(workshop.run_folder(run_id), ignore_errors=True)


def sweep(workshop: Workshop) -> None:
    """Delete what runs left that have ended: one that was given up, say, or that a worker came back to too late."""
    kept = [folder for folder in workshop.folder.glob("*") if folder.name.isdecimal()]
    # After the look at the folders: a run that is asked for from now on has none yet.
    with session.reading(workshop.sessions) as reading:
        over = runs.ended(reading, [int(folder.name) for folder in kept])
    for run_id in over:
        forget(workshop, run_id)


def _as_dict(trial: Trial, *, is_chosen: bool) -> dict[str, Any]:
    return {
        "strategy": trial.strategy,
        "is_chosen": is_chosen,
        "is_eligible": trial.is_eligible,
        "metrics": trial.metrics.as_dict(),
        "standard_error": trial.standard_error,
        "seconds": trial.seconds,
        "settled": trial.settled.as_dict(),
        "epochs": [epoch.as_dict() for epoch in trial.epochs],
        "best": trial.best,
        "frozen": list(trial.frozen),
        "notes": list(trial.notes),
    }
