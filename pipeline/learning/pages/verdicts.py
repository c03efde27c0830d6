"""Takes a run report.

Gives the headline, and the measures of challenger and champion side by side.
Knows nothing of HTML, classes or drawings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.learning.pages import wording

if TYPE_CHECKING:
    from pipeline.learning.report import RunFacts, RunReport, Scores

#: verdict or state -> (tone of the page, word on the badge)
BADGES = {
    "promote": ("good", "Passed"),
    "hold": ("calm", "Held"),
    "reject": ("bad", "Rejected"),
    "underpowered": ("warn", "Underpowered"),
    "not_recommended": ("warn", "Not recommended"),
    "failed": ("bad", "Failed"),
    "cancelled": ("calm", "Cancelled"),
    "succeeded": ("calm", "Finished"),
    "running": ("calm", "Running"),
    "queued": ("calm", "Waiting"),
}
#: the same -> what it means for the two versions
SENTENCES = {
    "promote": "{challenger} passed the gate and may serve.",
    "hold": "{challenger} is held back; {stays}.",
    "reject": "{challenger} is refused; {stays}.",
    "underpowered": "There are too few test images to judge {challenger}.",
    "not_recommended": "Training is not recommended with these labels.",
    "failed": "The run failed{where}.",
    "cancelled": "The run was cancelled{where}.",
    "succeeded": "The run has finished.",
    "running": "The run has not ended yet.",
    "queued": "The run has not begun yet.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What the run came to."""

    #: good, calm, warn or bad
    tone: str
    badge: str
    sentence: str
    #: why, one sentence; may be empty
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One measure of both versions."""

    name: str
    #: "share", "number" or "seconds": how it is written
    unit: str
    challenger: float | None
    champion: float | None
    #: what it says, in a few words
    meaning: str
    is_higher_better: bool = True

    @property
    def change(self) -> float | None:
        """Challenger minus champion."""
        return None if self.challenger is None or self.champion is None else self.challenger - self.champion

    @property
    def is_better(self) -> bool | None:
        """Whether the change is to the good; None where there is none that a page would show."""
        if self.change is None or abs(self.change) < 5e-4:
            return None
        return (self.change > 0) == self.is_higher_better


def headline(report: RunReport) -> Headline:
    """Say in one sentence what the run came to, and in another why."""
    run = report.run
    key = run.state if run.verdict is None or run.state in {"failed", "cancelled"} else run.verdict
    tone, badge = BADGES.get(key, ("calm", wording.spoken(key)))
    challenger = report.challenger.version if report.challenger else "the challenger"
    stays = f"{report.champion.version} keeps serving" if report.champion else "nothing changes"
    sentence = SENTENCES.get(key, "The run has ended.").format(challenger=challenger, stays=stays, where=_where(run))
    if run.is_promoted:
        tone, badge = ("good", "Promoted") if run.verdict == "promote" else ("warn", "Promoted by hand")
        sentence = f"{challenger} now serves{'' if report.champion else ', the first of its model'}."
    return Headline(tone=tone, badge=badge, sentence=sentence, reason=run.error_message or run.verdict_reason)


def _where(run: RunFacts) -> str:
    unfinished = [step.name for step in run.steps if step.seconds is None]
    return f" at the step “{unfinished[-1].replace('_', ' ')}”" if unfinished else ""


def measures(challenger: Scores, champion: Scores | None) -> tuple[Measure, ...]:
    """Set the measures of both versions side by side."""
    rows = (
        ("Balanced accuracy", "share", "balanced_accuracy", True, "mean of the classes' recalls"),
        ("Accuracy", "share", "accuracy", True, "share of all test images"),
        ("Macro F1", "share", "macro_f1", True, "mean of the classes' F1"),
        ("Log-likelihood, negative", "number", "nll", False, "punishes confident mistakes"),
        ("Brier score", "number", "brier", False, "squared error of the scores"),
        ("Calibration error", "share", "ece", False, "confidence against accuracy"),
        ("Time for an image", "seconds", "seconds_per_image", False, "forward pass, when measured"),
    )
    return tuple(
        Measure(
            name=name, unit=unit, meaning=meaning, is_higher_better=is_higher_better,
            challenger=getattr(challenger, field), champion=getattr(champion, field, None),
        )
        for name, unit, field, is_higher_better, meaning in rows
        if getattr(challenger, field) is not None
    )  # fmt: skip
