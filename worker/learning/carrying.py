"""Takes a claimed run. Gives its steps done, from the first that is not, and a final state, always.

    snapshot -> plan -> train -> evaluate -> gate -> report

Knows nothing of what a step computes. What a step leaves for later ones is in its row, or in a file its row names.
"""

import errno
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from sqlalchemy.exc import SQLAlchemyError

from db import errors as db_errors
from db import registry, runs, session
from db import snapshots as snapshot_rows
from db.models import Verdict
from pipeline import errors
from pipeline.learning import heads, optimizers
from pipeline.learning.epochs import Epoch
from pipeline.learning.heads import Head
from pipeline.learning.snapshots import Snapshot
from worker.learning import judging, keeping, material, planning, reporting, snapshotting, training
from worker.learning.material import Material, Start
from worker.learning.watch import Cancelled, Interrupted, Lost, Stopped, Watch
from worker.learning.workshop import Workshop
from worker.playbook import Playbook

log = logging.getLogger(__name__)

#: what a user can do about trouble that is not of the pipeline's own making
NO_SPACE = "There is no space left on the disk of the store; free some, and ask for the run again."
NO_DEVICE_MEMORY = "Not even one image fits on the device; stop what shares it, or take a smaller network."
NO_HOST_MEMORY = "The host has no memory left; lower IMAGEMILL_PIXEL_CACHE_BYTES, or give the worker more."
UNEXPECTED = "Something unexpected went wrong ({}); the learn worker's log says where."
#: what is drawn while a run trains, of the newest epochs
CURVES, MOST_EPOCHS = ("train_loss", "val_nll", "val_balanced_accuracy"), 300


def carry_out(workshop: Workshop, watch: Watch) -> str:
    """Do what is left of a run and end it; gives what came of it, in a few words.

    Raises `LedgerUnreachable`: then the lease runs out, and another worker goes on.
    """
    run = watch.run
    keeping.sweep(workshop)
    carrying = Carrying(workshop, watch)
    try:
        verdict = carrying.to_the_end()
    except Cancelled:
        judged = carrying.judged()
        if judged is None:
            return _end(carrying, "cancelled")
        verdict = judged  # too late: the verdict is recorded, and acted on
    except Interrupted:
        with session.transaction(workshop.sessions) as transaction:
            runs.release(transaction, run.id, run.fence)
        return f"given back in step {carrying.step}: this worker is being stopped"
    except (Lost, db_errors.RunLost):
        return _lost(carrying)
    except (db_errors.LedgerUnreachable, SQLAlchemyError):
        raise
    except Exception as wrong:  # noqa: BLE001 - a run has a final state, whatever went wrong in it
        return _fail(carrying, wrong)
    with session.transaction(workshop.sessions) as transaction:
        runs.end(transaction, run.id, run.fence, state="succeeded", verdict=verdict)
    keeping.forget(workshop, run.id)
    return verdict


def _lost(carrying: "Carrying") -> str:
    return f"lost in step {carrying.step}: somebody else has it now"


def _fail(carrying: "Carrying", wrong: Exception) -> str:
    """End the run as failed, unless it failed because another, who has it now, swept away what it wrote."""
    failure = failure_of(wrong)
    try:
        told = _end(carrying, "failed", failure)
    except db_errors.RunLost:
        return _lost(carrying)
    traceback = wrong if failure.is_unexpected else None
    log.error("run %s failed: %s", carrying.run.id, failure.message, exc_info=traceback)
    return told


def _end(carrying: "Carrying", state: Literal["failed", "cancelled"], failure: "Failure | None" = None) -> str:
    """Write the final state, then a page about it if that can be done."""
    workshop, run = carrying.workshop, carrying.run
    kind, message = (failure.kind, failure.message) if failure else (None, None)
    ending = replace(run, state=state, error_kind=kind, error_message=message, finished_at_s=None)
    reference = carrying.page(ending)
    with session.transaction(workshop.sessions) as transaction:
        if reference is not None:
            runs.note(transaction, run.id, run.fence, report=reference)
        runs.end(transaction, run.id, run.fence, state=state, error_kind=kind, error_message=message)
    keeping.forget(workshop, run.id)
    return state if failure is None else f"{state} in step {carrying.step}: {failure.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a run failed."""

    #: snake_case fact
    kind: str
    #: one sentence for a user
    message: str
    is_unexpected: bool = False


def failure_of(wrong: BaseException) -> Failure:
    """Say what an error means for the owner of a run."""
    causes = [wrong, wrong.__cause__, getattr(wrong.__cause__, "__cause__", None)]
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return Failure(kind="no_space", message=NO_SPACE)
    if isinstance(wrong, torch.OutOfMemoryError):
        return Failure(kind="device_memory", message=NO_DEVICE_MEMORY)
    if isinstance(wrong, MemoryError):
        return Failure(kind="host_memory", message=NO_HOST_MEMORY)
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(wrong).__name__).lower()
    if isinstance(wrong, errors.PipelineError | db_errors.LedgerError):
        return Failure(kind=kind, message=str(wrong))
    return Failure(kind="unexpected", message=UNEXPECTED.format(type(wrong).__name__), is_unexpected=True)


class Carrying:
    """One run on its way. What steps share is computed once, and again only by a worker that took the run over."""

    def __init__(self, workshop: Workshop, watch: Watch) -> None:
        self.workshop = workshop
        self.watch = watch
        self.run = watch.run
        self.step = "none"
        # A worker that takes a run over goes on drawing where the other one was killed.
        self._curve: list[dict[str, Any]] = list((watch.run.progress or {}).get("curve", ()))

    def to_the_end(self) -> Verdict:
        """Do the steps that are left and give the verdict."""
        self._do("snapshot", self._snapshot)
        planned = self._do("plan", self._plan)
        if not planned["plan"]["candidates"]:
            self._do("report", self._report)
            return "not_recommended"
        self._do("train", self._train)
        self._do("evaluate", self._evaluate)
        verdict: Verdict = self._do("gate", self._gate)["verdict"]["verdict"]
        self._do("report", self._report)
        return verdict

    def judged(self) -> Verdict | None:
        """Give the verdict if the gate has spoken."""
        result = self._results().get("gate")
        return None if result is None else result["verdict"]["verdict"]

    # ------------------------------------------------------------ what steps share

    @cached_property
    def playbook(self) -> Playbook:
        """What was configured when the run was asked for."""
        return Playbook.from_dict(self.run.model, {k: v for k, v in self.run.playbook.items() if k != "model"})

    @cached_property
    def snapshot(self) -> Snapshot:
        """The labels it learns from."""
        with session.reading(self.workshop.sessions) as reading:
            snapshot_id = self._result("snapshot")["snapshot_id"]
            row = snapshot_rows.by_id(reading, snapshot_id)
        return snapshotting.read(row)

    @cached_property
    def base(self) -> registry.Version:
        """The version whose weights it starts from."""
        starts_from_champion = self.playbook.recipe.start == "champion" and self.run.parent_id is not None
        version_id = self.run.parent_id if starts_from_champion else self.run.base_id
        if version_id is None:
            raise errors.CheckpointBroken("The version that the run starts from is not in the registry any more.")
        with session.reading(self.workshop.sessions) as reading:
            return registry.by_id(reading, version_id)

    @cached_property
    def start(self) -> Start:
        """That version, loaded, and loosened if the recipe says so."""
        start, keep = material.open_start(self.workshop, self.base), self.playbook.recipe.shrink_perturb
        if keep is None:
            return start
        return material.loosened(self.workshop, self.watch.pace, start, self.snapshot, keep=keep)

    @cached_property
    def material(self) -> Material:
        """Features and targets of every split."""
        return material.gather(self.workshop, self.watch.pace, self.snapshot, self.start)

    # ------------------------------------------------------------ the steps

    def _snapshot(self) -> dict[str, Any]:
        # First of all, for it needs torch and so is asked nowhere else.
        optimizers.check_optimizer(self.playbook.recipe.optimizer, self.playbook.recipe.optimizer_options)
        taken = snapshotting.take(self.workshop, self.run.model)
        with session.transaction(self.workshop.sessions) as transaction:
            row = snapshot_rows.record(transaction, taken.row)
            runs.note(transaction, self.run.id, self.run.fence, snapshot_id=row.id)
        return {"snapshot_id": row.id, "digest": row.digest, "left_out": list(taken.left_out)}

    def _plan(self) -> dict[str, Any]:
        planned = planning.make_plan(
            self.workshop, self.watch.pace, self.material, self.playbook, is_forced=self.run.is_forced
        ).as_dict()
        self._note(plan=planned)
        return planned

    def _train(self) -> dict[str, Any]:
        asked = self.playbook.recipe.strategy
        candidates: list[Any] = self._result("plan")["plan"]["candidates"] if asked == "auto" else [asked]
        trained = training.train(
            self.workshop,
            self.watch.pace,
            self.material,
            self.playbook.recipe,
            candidates,
            folder=self.workshop.run_folder(self.run.id),
            on_epoch=self._tell_epoch,
            champion=self._champion_head(),
        )
        return keeping.keep(self.workshop, self.run.id, trained)

    def _tell_epoch(self, strategy: str, epoch: Epoch, num_epochs: int) -> None:
        """Let whoever watches see the epoch, and the curve up to it."""
        self._curve.append(
            {"strategy": strategy, "epoch": epoch.number, **{name: getattr(epoch, name) for name in CURVES}}
        )
        progress = {"strategy": strategy, "epoch": epoch.number, "of": num_epochs, **epoch.as_dict()}
        self._note(progress=progress | {"curve": self._curve[-MOST_EPOCHS:]})

    def _champion_head(self) -> Head | None:
        """Give the head that serves, if it stands on the very backbone that this run starts from."""
        with session.reading(self.workshop.sessions) as reading:
            serving = registry.serving(reading, self.run.model)
        if serving is None:
            return None
        champion = material.open_start(self.workshop, serving.version)
        is_same = champion.backbone_sha256 == self.start.backbone_sha256
        return heads.of(champion.loaded.network, champion.layers) if is_same else None

    def _evaluate(self) -> dict[str, Any]:
        trial = keeping.recall(self.workshop, self.run.id, self._result("train"), self.material)
        evaluated = judging.evaluate(self.workshop, self.watch, self.material, trial, self.playbook)
        version = judging.enter(self.workshop, self.watch, evaluated, self.base)
        return {"version_id": version.id, "version": version.name, "metrics": evaluated.metrics.as_dict()}

    def _gate(self) -> dict[str, Any]:
        with session.reading(self.workshop.sessions) as reading:
            challenger = registry.by_id(reading, self._result("evaluate")["version_id"])
        judged = judging.judge(self.workshop, self.watch, self.material, challenger, self.playbook)
        return {
            "gate_id": judged.gate_id,
            "verdict": judged.verdict.as_dict(),
            "is_promoted": judged.is_promoted,
            "champion": judged.champion,
        }

    def _report(self) -> dict[str, Any]:
        reference = self.page()
        if reference is not None:
            self._note(report=reference)
        return {"reference": reference}

    def page(self, ending: runs.Run | None = None) -> str | None:
        """Write the page and give its reference, None if that failed; without images if the run is `ending` early."""
        try:
            material = self.material if ending is None else None
            return reporting.write(self.workshop, self.watch, self._results(), material, ending=ending)
        except (Stopped, db_errors.LedgerError, SQLAlchemyError):
            raise
        except Exception:  # what the run did matters more than the page about it
            log.exception("run %s has no report", self.run.id)
            return None

    # ------------------------------------------------------------ rows

    def _do(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Give a step's result: of its row if it is done, else computed now and written down."""
        self.step = name
        done = self._results().get(name)
        if done is not None:
            return done
        self.watch.keep_going()
        with session.transaction(self.workshop.sessions) as transaction:
            runs.begin_step(transaction, self.run.id, self.run.fence, name)
        result = compute()
        with session.transaction(self.workshop.sessions) as transaction:
            runs.finish_step(transaction, self.run.id, self.run.fence, name, result)
        log.info("run %s: %s is done", self.run.id, name)
        return result

    def _results(self) -> dict[str, dict[str, Any]]:
        with session.reading(self.workshop.sessions) as reading:
            rows = runs.steps(reading, self.run.id)
        return {name: row.result or {} for name, row in rows.items() if row.finished_at_s is not None}

    def _result(self, name: str) -> dict[str, Any]:
        return self._results()[name]

    def _note(self, **columns: Any) -> None:
        with session.transaction(self.workshop.sessions) as transaction:
            runs.note(transaction, self.run.id, self.run.fence, **columns)
