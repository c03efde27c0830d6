"""Takes a run report.

Gives everything its page shows beyond the report itself, ready for the template.
Knows nothing of HTML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.learning.pages import drawings, plots, recalls, verdicts

if TYPE_CHECKING:
    from pipeline.learning.report import RunReport

#: classes up to which the confusion matrix is a table with numbers; beyond it is a heat map
MAX_TABLE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything the template needs beyond the report itself."""

    headline: verdicts.Headline
    measures: tuple[verdicts.Measure, ...]
    #: 95 % interval of the challenger's accuracy
    interval: tuple[float, float] | None
    #: the class with the lowest recall
    weakest: recalls.ClassRow | None
    #: the weakest first where there are many
    classes: tuple[recalls.ClassRow, ...]
    #: empty beyond MAX_TABLE classes
    cells: tuple[tuple[recalls.Cell, ...], ...]
    #: empty up to MAX_TABLE classes
    heat_map: str
    mix_ups: tuple[recalls.MixUp, ...]
    pictures: tuple[drawings.Picture, ...]
    difference: drawings.Track | None
    contests: tuple[drawings.Contest, ...]
    #: before and after the temperature; empty where nothing was calibrated
    reliability: tuple[str, ...]
    curve: str
    curve_sentence: str


def of(report: RunReport) -> Page:
    """Work out the page of a report."""
    challenger = report.challenger
    rows = recalls.class_rows(challenger, report.champion) if challenger else ()
    confusion = challenger.confusion if challenger else ()
    curve = report.plan.curve if report.plan else None
    return Page(
        headline=verdicts.headline(report),
        measures=verdicts.measures(challenger, report.champion) if challenger else (),
        interval=recalls.wilson(challenger.accuracy, challenger.num) if challenger else None,
        weakest=min((row for row in rows if row.scores.recall is not None), key=recalls.recall_of, default=None),
        classes=rows if len(rows) <= MAX_TABLE else tuple(sorted(rows, key=recalls.recall_of)),
        cells=recalls.cells(confusion) if len(confusion) <= MAX_TABLE else (),
        heat_map=plots.heat_map(confusion) if len(confusion) > MAX_TABLE else "",
        mix_ups=recalls.mix_ups(challenger) if challenger else (),
        pictures=drawings.pictures(report.most_wrong),
        difference=drawings.difference(report.gate.difference) if report.gate and report.gate.difference else None,
        contests=drawings.contests(report.trials),
        reliability=drawings.reliability(report.reliability) if report.reliability else (),
        curve=drawings.curve(curve) if curve else "",
        curve_sentence=drawings.curve_sentence(curve) if curve else "",
    )
