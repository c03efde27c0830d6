"""Takes labels, and the wish to retrain. Gives receipts and runs, after the ledger has what they promise.

Knows nothing of Celery or Pillow: what reads images and what rings is handed to it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from db import runs, session
from pipeline.errors import RecipeInvalid
from worker import learning_messages, retraining, ringing
from worker.errors import NothingToStartFrom, PlaybookInvalid
from worker.intake import refusal_of, refusing
from worker.learning_messages import LabelsReceipt, Retrain, RunStatus
from worker.messages import Refusal
from worker.settings import Settings

#: Records labels of a model, and tells what became of each.
Record = Callable[[str, tuple[learning_messages.LabelledImage, ...]], LabelsReceipt]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningDesk:
    """What intake works with when it is about learning."""

    sessions: sessionmaker[Session]
    settings: Settings
    record: Record
    #: Tells the learn queue that a run waits.
    ring_run: Callable[[int], None]


@refusing
def label(desk: LearningDesk, wire: object) -> LabelsReceipt | Refusal:
    """Record labels and acknowledge: what the receipt does not name as refused is in the ledger."""
    given = learning_messages.Labels.parse(wire)
    try:
        return desk.record(given.model, given.images)
    except (PlaybookInvalid, RecipeInvalid) as wrong:
        return refusal_of(wrong)


@refusing
def retrain(desk: LearningDesk, wire: object) -> RunStatus | Refusal:
    """Put a run into the ledger and ring for it, or give the one that is not over yet: a model has one at a time."""
    asked = Retrain.parse(wire)
    wish = retraining.Wish(
        model=asked.model,
        asked_by=asked.asked_by,
        reason=asked.reason or f"{asked.asked_by} asked for it",
        strategy=asked.strategy,
        base=asked.base,
        is_forced=asked.force,
        seed=asked.seed,
    )
    try:
        run = retraining.request(desk.sessions, desk.settings, wish).run
    except (NothingToStartFrom, PlaybookInvalid, RecipeInvalid) as wrong:
        return refusal_of(wrong)
    if run.state == "queued":
        ringing.ring_all(desk.ring_run, [run.id])  # a bell too many finds nothing to claim
    return status_of(desk.sessions, run.id)


@refusing
def run_status(desk: LearningDesk, run: object) -> RunStatus:
    """Tell how far a run is."""
    return status_of(desk.sessions, learning_messages.parse_run_id(run))


def status_of(sessions: sessionmaker[Session], run_id: int) -> RunStatus:
    """Give a run in the words of the wire. Raises `UnknownRun`."""
    with session.reading(sessions) as reading:
        run = runs.run(reading, run_id)
    return RunStatus(
        id=run.id,
        model=run.model,
        state=run.state,
        verdict=run.verdict,
        step=run.step,
        progress=run.progress,
        version=run.version,
        error=run.error_message,
        reason=run.reason,
        asked_by=run.asked_by,
        created_at_s=run.created_at_s,
        started_at_s=run.started_at_s,
        finished_at_s=run.finished_at_s,
    )
