"""Takes parts of a run report.

Gives what stands for them to the eye: places on tracks, drawings, thumbnails.
Knows nothing of HTML around them.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.learning.pages import plots, wording

if TYPE_CHECKING:
    from pipeline.learning.report import Bin, Difference, LearningCurve, Reliability, Trial, Wrong

#: bytes of base64 that all pictures may have together; the rest of a page stays below half a megabyte
MAX_PICTURES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A mistake, with its thumbnail as something a page can show."""

    wrong: Wrong
    #: empty where there is none, or where the page would grow too large
    data_uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """A value and its interval, as percentages of a track's width."""

    value: float
    low: float
    high: float
    #: further marks on the track
    marks: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A strategy of the bake-off with its place among the others; drawings where it was trained in epochs."""

    trial: Trial
    #: how long it took, as a sentence; empty where that is not known
    facts: str
    track: Track | None
    loss: str
    accuracy: str


def pictures(wrongs: Iterable[Wrong]) -> tuple[Picture, ...]:
    """Put thumbnails into the page as long as it stays small; the mistakes beyond are shown without."""
    found, num_bytes = [], 0
    for wrong in wrongs:
        encoded = base64.b64encode(wrong.thumbnail_jpeg).decode()
        is_shown = bool(encoded) and num_bytes + len(encoded) <= MAX_PICTURES
        num_bytes += len(encoded) if is_shown else 0
        found.append(Picture(wrong=wrong, data_uri=f"data:image/jpeg;base64,{encoded}" if is_shown else ""))
    return tuple(found)


def difference(measured: Difference) -> Track:
    """Place the difference and its bounds on a track; the marks are minus the margin, and zero."""
    high = measured.value if measured.high is None else measured.high
    ends = (measured.low, high, measured.value, -measured.margin, 0.0)
    place = _places(ends)
    return Track(
        value=place(measured.value),
        low=place(measured.low),
        high=100.0 if measured.high is None else place(high),
        marks=(place(-measured.margin), place(0.0)),
    )


def contests(trials: Iterable[Trial]) -> tuple[Contest, ...]:
    """Place the strategies' scores on one track, and draw the epochs of those that have any."""
    trials = tuple(trials)
    scored = [(trial.score, trial.standard_error or 0.0) for trial in trials if trial.score is not None]
    place = _places([score + sign * error for score, error in scored for sign in (-1, 1)])
    return tuple(
        Contest(
            trial=trial, facts=_facts(trial), track=_track(trial, place), loss=_loss(trial), accuracy=_accuracy(trial)
        )
        for trial in trials
    )


def reliability(measured: Reliability) -> tuple[str, str]:
    """Draw confidence against accuracy before the temperature and after."""
    return _bins(measured.before), _bins(measured.after)


def curve(measured: LearningCurve) -> str:
    """Draw the error over labels; empty where nothing was measured, or nothing fits."""
    law = (measured.a, measured.b, measured.c)
    if not measured.points or not all(map(math.isfinite, law)):
        return ""
    return plots.error_over_labels(measured.points, law, target=measured.target, needed=measured.needed)


def curve_sentence(measured: LearningCurve) -> str:
    """Say how many labels the wanted error takes."""
    errors = wording.share(measured.target)
    if measured.needed is None or not math.isfinite(measured.needed[0]):
        floor = wording.share(max(0.0, measured.a))
        return f"More labels alone will not bring the errors down to {errors}: the curve flattens at {floor}."
    num, low, high = measured.needed
    between = (
        f"{wording.about(low)} to {wording.about(high)}" if math.isfinite(high) else f"{wording.about(low)} or more"
    )
    return f"About {wording.about(num)} labelled training images bring the errors down to {errors} ({between})."


def _places(values: Iterable[float]) -> Callable[[float], float]:
    """Give where a value lies on a track that holds all of `values` with some air around them, 0..100."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    air = 0.12 * (max(known) - min(known)) or 0.01
    low, width = min(known) - air, max(known) - min(known) + 2 * air
    return lambda value: min(100.0, max(0.0, 100 * (value - low) / width))


def _facts(trial: Trial) -> str:
    num = sum(epoch.number > 0 for epoch in trial.epochs)
    facts = [f"{num} epoch{'' if num == 1 else 's'}"] if num else []
    facts += [wording.took(trial.seconds)] if trial.seconds is not None else []
    return wording.sentence(", ".join(facts))


def _track(trial: Trial, place: Callable[[float], float]) -> Track | None:
    if trial.score is None:
        return None
    error = trial.standard_error or 0.0
    return Track(value=place(trial.score), low=place(trial.score - error), high=place(trial.score + error))


def _loss(trial: Trial) -> str:
    trained = [epoch.train_loss for epoch in trial.epochs]
    return _epochs(trial, trained, [epoch.val_nll for epoch in trial.epochs])


def _accuracy(trial: Trial) -> str:
    trained = [epoch.train_accuracy for epoch in trial.epochs]
    return _epochs(trial, trained, [epoch.val_balanced_accuracy for epoch in trial.epochs], is_share=True)


def _epochs(trial: Trial, trained: list[float | None], validated: list[float], *, is_share: bool = False) -> str:
    if not trial.epochs:
        return ""
    known = tuple(math.nan if value is None else value for value in trained)
    lines = (
        plots.Line(values=known, colour=plots.OLD, is_dashed=True),
        plots.Line(values=tuple(validated)),
    )
    return plots.over_epochs([epoch.number for epoch in trial.epochs], lines, best=trial.best, is_share=is_share)


def _bins(bins: tuple[Bin, ...]) -> str:
    edges = [(each.low, each.high) for each in bins]
    return plots.reliability(edges, [each.accuracy for each in bins], [each.num for each in bins])
