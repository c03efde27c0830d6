"""Takes a run's epochs. Gives curves as points of a drawing, and what their axes say.

Knows nothing of HTML: a template draws them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.learning.pages import wording

#: units of the drawing: of all of it, and of the margins where the axes are lettered
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 220, 46, 26, 12, 12
NUM_TICKS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series."""

    name: str
    #: `x,y x,y ...`, in units of the drawing
    points: str
    #: where its last point is
    x: float
    y: float
    #: its last value
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Series over epochs."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    is_share: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What one strategy's training looked like."""

    strategy: str
    charts: tuple[Chart, ...]
    #: the epochs themselves, for a table
    epochs: tuple[Mapping[str, Any], ...]


#: title, whether it is a share, and its series: their fields and names
CHARTS = (
    ("Balanced accuracy on the validation images", True, (("val_balanced_accuracy", "validation"),)),
    ("Loss", False, (("train_loss", "training"), ("val_nll", "validation"))),
)


def of_epochs(epochs: Sequence[Mapping[str, Any]]) -> tuple[Curves, ...]:
    """Draw each strategy's epochs, in the order in which they came; an epoch that came twice counts as it came last."""
    strategies = dict.fromkeys(str(epoch["strategy"]) for epoch in epochs)
    return tuple(_of_one(name, [epoch for epoch in epochs if epoch["strategy"] == name]) for name in strategies)


def of_trials(trials: Sequence[Mapping[str, Any]]) -> tuple[Curves, ...]:
    """Draw what a finished training step recorded."""
    epochs = [
        {**epoch, "epoch": epoch["number"], "strategy": trial["strategy"]}
        for trial in trials
        for epoch in trial["epochs"]
    ]
    return of_epochs(epochs)


def _of_one(strategy: str, epochs: Sequence[Mapping[str, Any]]) -> Curves:
    by_number = {int(epoch["epoch"]): epoch for epoch in epochs}
    ordered = tuple(by_number[number] for number in sorted(by_number))
    charts = (_chart(title, ordered, series, is_share=is_share) for title, is_share, series in CHARTS)
    return Curves(strategy=strategy, charts=tuple(chart for chart in charts if chart), epochs=ordered)


def _chart(
    title: str, epochs: Sequence[Mapping[str, Any]], series: Sequence[tuple[str, str]], *, is_share: bool
) -> Chart | None:
    found = {name: _finite(epochs, field) for field, name in series}
    values = [value for points in found.values() for _, value in points]
    if not values:
        return None
    numbers = [number for points in found.values() for number, _ in points]
    across = _Axis(min(numbers), max(numbers), LEFT, WIDTH - RIGHT)
    up = _Axis(min(values), max(values), HEIGHT - BOTTOM, TOP, least=0.02)
    lines = tuple(_line(name, points, across, up) for name, points in found.items() if points)
    return Chart(
        title=title,
        lines=lines,
        x_ticks=tuple(Tick(at=across.at(number), text=str(number)) for number in _whole(across)),
        y_ticks=tuple(Tick(at=up.at(value), text=_text(value, is_share=is_share)) for value in up.spread()),
        is_share=is_share,
    )


def _finite(epochs: Sequence[Mapping[str, Any]], field: str) -> list[tuple[int, float]]:
    pairs = ((int(epoch["epoch"]), epoch.get(field)) for epoch in epochs)
    return [(number, float(value)) for number, value in pairs if value is not None and math.isfinite(value)]


def _line(name: str, points: Sequence[tuple[int, float]], across: "_Axis", up: "_Axis") -> Line:
    places = [(across.at(number), up.at(value)) for number, value in points]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return Line(name=name, points=text, x=places[-1][0], y=places[-1][1], last=points[-1][1])


class _Axis:
    """Maps values to units of the drawing."""

    def __init__(self, low: float, high: float, first: float, last: float, *, least: float = 1.0) -> None:
        room = max(0.0, least - (high - low)) / 2
        self.low, self.high = low - room, high + room
        self._first, self._last = first, last

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self._first + share * (self._last - self._first), 1)

    def spread(self) -> list[float]:
        return [self.low + (self.high - self.low) * step / (NUM_TICKS - 1) for step in range(NUM_TICKS)]


def _whole(axis: _Axis) -> range:
    low, high = math.ceil(axis.low), math.floor(axis.high)
    return range(low, high + 1, max(1, -(-(high - low) // 8)))


def _text(value: float, *, is_share: bool) -> str:
    return wording.share(value) if is_share else wording.number(value, 2)
