"""Takes a model. Gives what the playbook would do with its labels now, and why; nothing is trained or recorded.

Knows nothing of runs.
"""

from argparse import Namespace
from typing import TYPE_CHECKING

from db import session
from worker import playbook, retraining, runtime
from worker.cli import output
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.learning.planning import Planned

#: exit code of a plan that says no
REFUSED = 3


def plan(asked: Namespace, settings: Settings) -> int:
    """Print the lecture's cell, the evidence, the decision and why; gives 3 if training is not recommended."""
    from worker.learning import material, planning, snapshotting, workshop
    from worker.learning.watch import Pace

    known = playbook.read(settings.playbook, asked.model)
    pace = Pace(model=asked.model, seed=asked.seed)
    with runtime.ledger(settings) as sessions:
        with session.reading(sessions) as reading:
            base = retraining.base_of(reading, asked.model, asked.base or known.base)
        with workshop.opened(settings.or_here(), sessions) as opened:
            with output.errors().status("Reading the labelled images ..."):
                taken = snapshotting.take(opened, asked.model)
                start = material.open_start(opened, base)
                gathered = material.gather(opened, pace, taken.snapshot, start)
            with output.errors().status("Probing the features ..."):
                planned = planning.make_plan(opened, pace, gathered, known, is_forced=False)
    if asked.json:
        output.as_json({"model": asked.model, "base": base.name, "left_out": taken.left_out, **planned.as_dict()})
    else:
        _print(asked.model, base.name, taken.left_out, planned)
    return 0 if planned.plan.is_recommended else REFUSED


def _print(model: str, base: str, left_out: tuple[str, ...], planned: "Planned") -> None:
    console = output.console()
    found, decided = planned.similarity, planned.plan
    console.print(f"[bold]{model}[/bold] on {base}: {output.plain(decided.cell)}")
    console.print(f"The lecture says: {decided.lecture}.")
    output.table(
        "\nEvidence, from training images only",
        ("measure", "value", "what it is"),
        (
            *(
                (f"{shots.num}-shot score", f"{shots.mean:.2f} ± {shots.std:.2f}", "nearest class mean; 0 is chance")
                for shots in found.shots
            ),
            ("nearest neighbours", f"{found.knn:.2f}", f"balanced accuracy; chance is {found.null_q95:.2f}"),
            ("ridge regression", f"{found.ridge:.2f}", "balanced accuracy, cross-validated"),
            ("untrained backbone", _or_none(found.control_random), "the few-shot score without pretraining"),
            ("colour histograms", _or_none(found.control_histogram), "the few-shot score of colours alone"),
            ("transfer gain", _or_none(found.gain), "what pretraining adds to the better of both"),
            ("LogME", f"{found.logme:.3f}", "a diagnostic; nothing is decided by it"),
            ("training images", f"{planned.num_train:,}", f"{planned.num_per_class:g} of the median class"),
        ),
    )
    console.print()
    for sentence in (*decided.reasons, planned.labels_needed):
        console.print(f"- {output.plain(sentence)}", soft_wrap=True)
    if left_out:
        console.print(f"- Left out, with too few images: {output.plain(', '.join(left_out))}.", soft_wrap=True)
    if decided.is_recommended:
        trained = " against ".join(decided.candidates)
        console.print(f"\n[bold green]Train {trained}[/bold green]: imagemill retrain --model {model}")
        return
    console.print("\n[bold red]Not recommended.[/bold red] Instead:")
    for sentence in decided.instead:
        console.print(f"- {output.plain(sentence)}", soft_wrap=True)


def _or_none(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
