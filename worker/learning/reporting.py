"""Takes what a run's steps left. Gives its page, written into the store; a step it did not reach is a section less.

Knows nothing of how the page looks.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from db import registry, runs, session
from db import snapshots as snapshot_rows
from pipeline import errors, images, stores
from pipeline.learning import evaluation, report
from pipeline.learning.report import Row, RunReport
from worker.learning import answers, evidence
from worker.learning.answers import Answers
from worker.learning.material import Material, targets_of
from worker.learning.watch import Watch
from worker.learning.workshop import Workshop

log = logging.getLogger(__name__)

#: the one file of a report's folder
PAGE = "index.html"
#: mistakes that are shown
NUM_WRONG = 24
#: pixels of the long side of a mistake's thumbnail
THUMBNAIL = 160

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """What the page shows of the challenger and the champion on the test images."""

    material: Material
    challenger: Answers | None
    champion: Answers | None


def write(
    workshop: Workshop, watch: Watch, results: Results, material: Material | None, *, ending: runs.Run | None = None
) -> str:
    """Write the page and give its reference. Raises `StoreUnreachable`.

    `ending` is the run as it will have ended, for a page that is written before its row says so.
    """
    with session.reading(workshop.sessions) as reading:
        run = ending or runs.run(reading, watch.run.id)
        steps = runs.steps(reading, watch.run.id)
    asked = _ask(workshop, watch, results, material) if material is not None else None
    page = report.render(_report(workshop, run, steps, results, asked))
    # A name of its own each time: a folder that is there already would stay as it is.
    reference = f"{workshop.store.rstrip('/')}/reports/run-{run.id}-{run.fence}"
    stores.write_folder(reference, {PAGE: page})
    return f"{reference}/{PAGE}"


def _ask(workshop: Workshop, watch: Watch, results: Results, material: Material) -> Asked:
    challenger = champion = None
    if "evaluate" in results:
        with session.reading(workshop.sessions) as reading:
            version = registry.by_id(reading, results["evaluate"]["version_id"])
            named = results.get("gate", {}).get("champion")
            before = registry.version(reading, named) if named else None
        challenger = answers.answers(workshop, watch.pace, version, material.test.examples)
        champion = answers.answers(workshop, watch.pace, before, material.test.examples) if before else None
    return Asked(material=material, challenger=challenger, champion=champion)


def _report(
    workshop: Workshop, run: runs.Run, steps: Mapping[str, runs.StepRow], results: Results, asked: Asked | None
) -> RunReport:
    gate, train = results.get("gate"), results.get("train")
    return RunReport(
        run=_facts(run, steps, gate, results),
        next_steps=tuple(_next_steps(run, gate, results)),
        plan=evidence.plan_of(results["plan"]) if "plan" in results else None,
        trials=tuple(map(_trial, train["trials"])) if train else (),
        challenger=_scores(asked.challenger) if asked and asked.challenger else None,
        champion=_scores(asked.champion) if asked and asked.champion else None,
        reliability=_reliability(asked.challenger) if asked and asked.challenger else None,
        gate=_gate(gate["verdict"]) if gate else None,
        most_wrong=tuple(_most_wrong(workshop, asked.challenger)) if asked and asked.challenger else (),
        lineage=_lineage(workshop, run, asked.material, asked.challenger) if asked else None,
        recipe=_recipe(train["trials"]) if train else (),
        notes=tuple(_notes(results)),
    )


def _facts(
    run: runs.Run, steps: Mapping[str, runs.StepRow], gate: Mapping[str, Any] | None, results: Results
) -> report.RunFacts:
    is_refused = "plan" in results and not results["plan"]["plan"]["candidates"]
    reason = gate["verdict"]["reason"] if gate else " ".join(results["plan"]["plan"]["reasons"]) if is_refused else ""
    return report.RunFacts(
        id=run.id,
        model=run.model,
        state="succeeded" if run.state == "running" else run.state,
        verdict=gate["verdict"]["verdict"] if gate else "not_recommended" if is_refused else None,
        verdict_reason=reason,
        is_promoted=bool(gate and gate["is_promoted"]),
        is_forced=run.is_forced,
        asked_reason=run.reason,
        asked_by=run.asked_by,
        created_at_s=run.created_at_s,
        started_at_s=run.started_at_s,
        finished_at_s=run.finished_at_s,
        seed=run.seed,
        error_kind=run.error_kind or "",
        error_message=run.error_message or "",
        steps=tuple(
            report.Step(name=name, seconds=row.finished_at_s - row.started_at_s if row.finished_at_s else None)
            for name, row in steps.items()
            if name != "report"
        ),
    )


def _next_steps(run: runs.Run, gate: Mapping[str, Any] | None, results: Results) -> Iterator[report.NextStep]:
    version = results.get("evaluate", {}).get("version")
    if gate and gate["is_promoted"]:
        yield report.NextStep(
            sentence="If it proves worse in use, take it back.", command=f"imagemill models rollback {run.model}"
        )
    elif gate:
        yield report.NextStep(
            sentence="To let it serve all the same, on record:",
            command=f'imagemill models promote {version} --force --reason "..."',
        )
    if "plan" in results:
        for sentence in results["plan"]["plan"]["instead"]:
            yield report.NextStep(sentence=sentence)
        yield report.NextStep(sentence="What to label next:", command=f"imagemill labels suggest --model {run.model}")


# ---------------------------------------------------------------- training


def _trial(trial: Mapping[str, Any]) -> report.Trial:
    return report.Trial(
        strategy=trial["strategy"],
        score=trial["metrics"]["balanced_accuracy"],
        standard_error=trial["standard_error"],
        seconds=trial["seconds"],
        is_chosen=trial["is_chosen"],
        epochs=tuple(_epoch(epoch) for epoch in trial["epochs"] if epoch["number"]),
        best=trial["best"],
        note="" if trial["is_eligible"] else "It memorised the training images, so it could not win.",
    )


def _epoch(epoch: Mapping[str, Any]) -> report.Epoch:
    names = ("number", "train_loss", "train_accuracy", "val_nll", "val_accuracy", "val_balanced_accuracy", "seconds")
    return report.Epoch(**{name: epoch[name] for name in names})


def _recipe(trials: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    settled = next(trial["settled"] for trial in trials if trial["is_chosen"])
    return tuple(Row(name=name, value=str(value)) for name, value in settled.items())


def _notes(results: Results) -> Iterator[str]:
    left_out = results.get("snapshot", {}).get("left_out")
    if left_out:
        yield f"Left out until they have two images, one of them for training: {', '.join(left_out)}."
    train = results.get("train")
    if train:
        yield train["reason"]
        for trial in train["trials"]:
            yield from (f"{trial['strategy']}: {note}" for note in trial["notes"])


# ---------------------------------------------------------------- on the test images


def _scores(asked: Answers) -> report.Scores:
    metrics = _metrics(asked)
    names = ("num", "accuracy", "balanced_accuracy", "macro_f1", "nll", "brier", "ece", "confusion")
    return report.Scores(
        version=asked.version,
        per_class=tuple(
            report.ClassScores(name=row.name, num=row.num, recall=row.recall, precision=row.precision, f1=row.f1)
            for row in metrics.per_class
        ),
        **{name: getattr(metrics, name) for name in names},
    )


def _metrics(asked: Answers) -> evaluation.Metrics:
    """Measure on the images of the classes the version knows: of others it could not be right."""
    is_known = [example.label in asked.card.classes for example in asked.examples]
    known = [example for example, knows in zip(asked.examples, is_known, strict=True) if knows]
    return evaluation.measure(
        asked.logits[torch.tensor(is_known)],
        targets_of(asked.card.classes, known),
        asked.card.classes,
        temperature=asked.card.temperature,
        masked=asked.card.masked_numbers,
    )


def _reliability(asked: Answers) -> report.Reliability:
    targets = targets_of(asked.card.classes, asked.examples)
    temperature = asked.card.temperature
    return report.Reliability(
        temperature=temperature,
        before=_bins(asked.logits, targets, 1.0),
        after=_bins(asked.logits, targets, temperature),
    )


def _bins(logits: Tensor, targets: Tensor, temperature: float) -> tuple[report.Bin, ...]:
    return tuple(
        report.Bin(low=one.low, high=one.high, num=one.num, confidence=one.confidence, accuracy=one.accuracy)
        for one in evaluation.reliability(logits, targets, temperature)
    )


def _gate(verdict: Mapping[str, Any]) -> report.GateFacts:
    checks = {check["name"]: check for check in verdict["checks"]}
    found = checks.get("non_inferiority", {}).get("numbers")
    difference = None
    if found:
        difference = report.Difference(
            metric="balanced accuracy", value=found["estimate"], low=found["lower"], margin=found["margin"]
        )
    shown = {name: value for name, value in verdict["numbers"].items() if not isinstance(value, dict)}
    return report.GateFacts(
        checks=tuple(
            report.Check(name=check["name"], passed=check["passed"], sentence=check["sentence"])
            for check in verdict["checks"]
        ),
        warnings=tuple(verdict["warnings"]),
        difference=difference,
        numbers=tuple(Row(name=name, value=str(value)) for name, value in shown.items()),
    )


def _most_wrong(workshop: Workshop, asked: Answers) -> Iterator[report.Wrong]:
    scores, predicted = evaluation.probabilities(asked.logits, asked.card.temperature).max(dim=1)
    targets = targets_of(asked.card.classes, asked.examples)
    is_wrong = predicted != targets
    for row in torch.argsort(torch.where(is_wrong, scores, -1.0), descending=True)[: int(is_wrong.sum())][:NUM_WRONG]:
        example = asked.examples[int(row)]
        yield report.Wrong(
            thumbnail_jpeg=_thumbnail(workshop, example.reference),
            reference=example.reference,
            label=example.label,
            predicted=asked.card.classes[int(predicted[row])],
            score=float(scores[row]),
        )


def _thumbnail(workshop: Workshop, reference: str) -> bytes:
    try:
        return images.thumbnail(workshop.fetch(reference), workshop.limits, THUMBNAIL)
    except errors.ItemError:
        return b""


# ---------------------------------------------------------------- lineage


def _lineage(workshop: Workshop, run: runs.Run, material: Material, challenger: Answers | None) -> report.Lineage:
    snapshot = material.snapshot
    with session.reading(workshop.sessions) as reading:
        row = snapshot_rows.by_id(reading, run.snapshot_id) if run.snapshot_id else None
    card = challenger.card if challenger else None
    rows = (
        ("snapshot", snapshot.digest()),
        ("manifest", row.reference if row else ""),
        ("test images", snapshot.test_digest()),
        ("starts from", material.start.version.name),
        ("backbone", material.start.backbone_sha256),
        ("champion then", run.parent or "none"),
        ("challenger", run.version or ""),
        ("weights", card.weights_sha256 if card else ""),
        ("frozen", f"{len(card.frozen)} units" if card else ""),
        ("frozen tensors", card.frozen_sha256 or "" if card else ""),
    )
    counts = snapshot.counts()
    return report.Lineage(
        rows=tuple(Row(name=name, value=value) for name, value in rows if value),
        counts=tuple(
            report.ClassCounts(
                name=name,
                train=counts.get(name, {}).get("train", 0),
                val=counts.get(name, {}).get("val", 0),
                test=counts.get(name, {}).get("test", 0),
                is_removed=name in snapshot.removed,
            )
            for name in snapshot.classes
        ),
        lost=tuple(report.Lost(reference=one.reference, reason=one.reason) for one in material.lost),
    )
