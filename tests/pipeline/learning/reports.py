"""Reports of runs that never were, for tests: every section filled, or only what a run that ended early has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.learning import report
from pipeline.learning.report import RunReport
from tests import builders

NAMES = ("cat", "dog", "hen")
SHA256 = "0123456789abcdef" * 4


def facts(**fields: Any) -> report.RunFacts:
    given: dict[str, Any] = {
        "id": 42, "model": "pets", "state": "succeeded", "verdict": "promote", "verdict_reason": "It is no worse.",
        "is_promoted": True, "asked_reason": "120 new labels", "asked_by": "beat", "created_at_s": 1_795_000_000.0,
        "started_at_s": 1_795_000_004.0, "finished_at_s": 1_795_000_098.0, "seed": 0,
        "steps": (report.Step(name="plan", seconds=6.0), report.Step(name="finetune", seconds=60.0)),
    }  # fmt: skip
    return report.RunFacts(**(given | fields))


def scores(version: str = "pets:4", names: Sequence[str] = NAMES, *, num: int = 20, seed: int = 0) -> report.Scores:
    """Give the scores of a random confusion matrix that is mostly right."""
    mistakes = np.random.default_rng(seed).integers(0, 3, (len(names), len(names)))
    confusion = mistakes + num * np.eye(len(names), dtype=int)
    recalls = confusion.diagonal() / confusion.sum(axis=1)
    accuracy = float(confusion.diagonal().sum() / confusion.sum())
    return report.Scores(
        version=version, num=int(confusion.sum()), accuracy=accuracy, balanced_accuracy=float(recalls.mean()),
        macro_f1=accuracy, nll=0.3, brier=0.1, ece=0.02, seconds_per_image=0.004,
        per_class=tuple(
            report.ClassScores(name=name, num=int(row.sum()), recall=float(recall), precision=0.9, f1=0.9)
            for name, row, recall in zip(names, confusion, recalls, strict=True)
        ),
        confusion=tuple(map(tuple, confusion.tolist())),
    )  # fmt: skip


def epochs(values: Sequence[float] = (0.5, 0.6, 0.7, 0.8)) -> tuple[report.Epoch, ...]:
    """Give epochs from 0, the network as it came."""
    return tuple(
        report.Epoch(
            number=number, train_loss=1 - value if number else None, train_accuracy=value if number else None,
            val_nll=1.1 - value, val_accuracy=value, val_balanced_accuracy=value, seconds=2.0,
        )
        for number, value in enumerate(values)
    )  # fmt: skip


def trials() -> tuple[report.Trial, ...]:
    return (
        report.Trial(strategy="head", score=0.90, standard_error=0.01, seconds=2.0),
        report.Trial(strategy="all", score=0.96, standard_error=0.01, is_chosen=True, epochs=epochs(), best=2),
    )


def plan(**fields: Any) -> report.PlanFacts:
    given: dict[str, Any] = {
        "amount": "plentiful", "likeness": "similar", "cell": "Plentiful data, similar", "lecture": "freeze.",
        "decision": "Train the head.", "is_recommended": True, "reasons": ("There is enough.",),
        "instead": ("Label more.",),
        "evidence": (report.Evidence(name="Similarity", value="0.80", meaning="high", level=0.8, marks=(0.5, 0.75)),),
        "curve": curve(),
    }  # fmt: skip
    return report.PlanFacts(**(given | fields))


def curve(**fields: Any) -> report.LearningCurve:
    given: dict[str, Any] = {
        "points": ((100, 0.30), (1000, 0.12)), "a": 0.02, "b": 2.2, "c": 0.45, "target": 0.05,
        "needed": (6120.0, 4980.0, 7410.0),
    }  # fmt: skip
    return report.LearningCurve(**(given | fields))


def gate() -> report.GateFacts:
    return report.GateFacts(
        checks=(
            report.Check(name="non_inferiority", passed=True, sentence="It lies above the margin."),
            report.Check(name="classes", passed=False, sentence="hen is worse."),
            report.Check(name="latency", passed=None, sentence="Not timed."),
        ),
        warnings=("Look at hen.",),
        difference=report.Difference(metric="balanced accuracy", value=0.01, low=-0.01, high=0.03, margin=0.02),
        numbers=(report.Row(name="resamples", value="2,000"),),
    )


def bins(gap: float = 0.0) -> tuple[report.Bin, ...]:
    return tuple(
        report.Bin(low=low / 5, high=(low + 1) / 5, num=3 * low, confidence=low / 5 + 0.1, accuracy=low / 5 + 0.1 - gap)
        for low in range(5)
    )


def wrong(**fields: Any) -> report.Wrong:
    given: dict[str, Any] = {
        "thumbnail_jpeg": builders.jpeg_bytes(), "reference": "s3://pets/1.jpg", "label": "cat", "predicted": "dog",
        "score": 0.99,
    }  # fmt: skip
    return report.Wrong(**(given | fields))


def lineage(names: Sequence[str] = NAMES) -> report.Lineage:
    return report.Lineage(
        rows=(report.Row(name="Snapshot", value=SHA256), report.Row(name="Parent", value="pets:3")),
        counts=tuple(report.ClassCounts(name=name, train=70, val=10, test=20) for name in names),
        lost=(report.Lost(reference="s3://pets/gone.jpg", reason="There is no such file."),),
    )


def full(names: Sequence[str] = NAMES, **fields: Any) -> RunReport:
    """Give a report with every section filled."""
    given: dict[str, Any] = {
        "run": facts(), "plan": plan(), "trials": trials(), "gate": gate(), "lineage": lineage(names),
        "next_steps": (report.NextStep(sentence="Take it back:", command="imagemill models rollback pets"),),
        "challenger": scores("pets:4", names), "champion": scores("pets:3", names[:-1], seed=1),
        "reliability": report.Reliability(temperature=1.5, before=bins(0.1), after=bins()), "most_wrong": (wrong(),),
        "recipe": (report.Row(name="label_smoothing", value="0.1"),), "notes": ("The batch was halved.",),
    }  # fmt: skip
    return RunReport(**(given | fields))


def failed() -> RunReport:
    """Give the report of a run that diverged."""
    steps = (report.Step(name="plan", seconds=6.0), report.Step(name="finetune", seconds=None))
    run = facts(
        state="failed", verdict=None, is_promoted=False, error_kind="training_diverged",
        error_message="The loss is not a number any more.", steps=steps,
    )  # fmt: skip
    diverged = report.Trial(strategy="all", score=None, epochs=epochs((0.6, float("nan"))), best=1)
    return RunReport(run=run, plan=plan(), trials=(diverged,))


def not_recommended() -> RunReport:
    """Give the report of a run that the planner stopped."""
    decided = plan(amount="scarce", likeness="dissimilar", decision="Do not train.", is_recommended=False)
    return RunReport(run=facts(verdict="not_recommended", is_promoted=False, verdict_reason="Too few."), plan=decided)


def bare() -> RunReport:
    """Give a report of which nothing is known but the run."""
    return RunReport(run=facts(state="cancelled", verdict=None, is_promoted=False, started_at_s=None, steps=()))
