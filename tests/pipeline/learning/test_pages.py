"""The words, places and drawings that a run's page is made of."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from pipeline.learning import report
from pipeline.learning.pages import drawings, plots, recalls, verdicts, wording
from tests.pipeline.learning import reports

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (wording.share(0.9637), "96.4 %"), (wording.share(1), "100 %"), (wording.share(0), "0 %"),
        (wording.share(0.99999), "99.9 %"), (wording.share(0.994, 0), "99 %"), (wording.share(0.999, 0), "99 %"),
        (wording.share(None), "–"), (wording.share(NAN), "–"),
        (wording.points(0.0231), "+2.3"), (wording.points(-0.0231), "−2.3"), (wording.points(0.0004), "0.0"),
        (wording.points(-0.0004), "0.0"), (wording.points(None), "–"),
        (wording.number(-0.1031), "−0.103"), (wording.number(INF), "–"), (wording.change(-0.061), "−0.061"),
        (wording.count(1234567), "1,234,567"), (wording.about(9137), "9,100"), (wording.about(12600), "13,000"),
        (wording.about(7), "7"), (wording.about(INF), "any number"),
        (wording.took(0.0041), "4.1 ms"), (wording.took(0.4), "400 ms"), (wording.took(2.25), "2.2 s"),
        (wording.took(61), "1 min 1 s"), (wording.took(7260), "2 h 1 min"), (wording.took(None), "–"),
        (wording.when(1_795_000_000.0), "2026-11-18 11:06 UTC"), (wording.when(None), "–"),
        (wording.spoken("label_smoothing"), "Label smoothing"), (wording.spoken("ema"), "EMA"),
        (wording.spoken("val_nll"), "Val NLL"),
        (wording.sentence("so it is"), "so it is."), (wording.sentence("So! "), "So!"), (wording.sentence(""), ""),
        (wording.readable("a\u202eb\nc"), "a b c"), (wording.readable("x" * 30, 10), "xxxxx … xxxxx"),
    ],
)  # fmt: skip
def test_numbers_are_said_as_a_person_reads_them(said: str, word: str) -> None:
    assert said.replace(wording.SPACE, " ") == word


@pytest.mark.parametrize(
    ("share", "num", "interval"),
    [(0.95, 100, (0.8882, 0.9785)), (0.5, 10, (0.2366, 0.7634)), (1.0, 20, (0.8389, 1.0)), (0.0, 20, (0.0, 0.1611))],
)
def test_the_interval_of_a_share_is_wilsons(share: float, num: int, interval: tuple[float, float]) -> None:
    assert recalls.wilson(share, num) == pytest.approx(interval, abs=1e-4)


def test_no_images_have_no_interval() -> None:
    assert recalls.wilson(0.0, 0) is None


def test_the_classes_mixed_up_most_are_listed_by_count() -> None:
    scores = replace(reports.scores(), confusion=((20, 3, 0), (7, 20, 3), (0, 0, 20)))
    found = [(each.label, each.predicted, each.count, each.num) for each in recalls.mix_ups(scores)]
    assert found == [("dog", "cat", 7, 30), ("cat", "dog", 3, 23), ("dog", "hen", 3, 30)]


def test_a_class_without_test_images_is_neither_weakest_nor_lost() -> None:
    scores = reports.scores()
    empty = report.ClassScores(name="cow", num=0, recall=None, precision=None, f1=None)
    rows = recalls.class_rows(replace(scores, per_class=(empty, *scores.per_class)), None)
    assert [row.scores.name for row in sorted(rows, key=recalls.recall_of)][-1] == "cow"
    assert rows[0].change is None


@pytest.mark.parametrize(
    ("before", "after", "is_better"),
    [(0.30, 0.25, True), (0.25, 0.30, False), (0.25, 0.2501, None), (None, 0.3, None)],
)
def test_a_lower_loss_is_the_better_one(before: float | None, after: float, is_better: bool | None) -> None:
    measure = verdicts.Measure(
        name="NLL", unit="number", challenger=after, champion=before, meaning="", is_higher_better=False
    )
    assert measure.is_better is is_better


def test_the_gates_difference_lies_in_its_order_on_the_track() -> None:
    track = drawings.difference(
        report.Difference(metric="accuracy", value=0.01, low=-0.01, high=0.03, margin=0.02),
    )
    assert 0 < track.marks[0] < track.low < track.marks[1] < track.value < track.high < 100
    assert track.marks[1] - track.marks[0] == pytest.approx(track.value - track.low)


def test_a_difference_without_an_upper_bound_reaches_the_end_of_the_track() -> None:
    track = drawings.difference(report.Difference(metric="accuracy", value=0.01, low=-0.01, margin=0.02))
    assert track.high == 100


def test_strategies_stand_on_one_track_and_one_without_a_score_has_none() -> None:
    diverged = report.Trial(strategy="last_stage", score=None)
    head, full, broken = drawings.contests((*reports.trials(), diverged))
    assert head.track is not None
    assert full.track is not None
    assert head.track.low < head.track.value < head.track.high < full.track.low
    assert broken.track is None
    assert (head.loss, broken.accuracy) == ("", "")
    assert [each.facts.replace(wording.SPACE, " ") for each in (head, full, broken)] == ["2.0 s.", "3 epochs.", ""]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "About 6,100 labelled training images bring the errors down to 5.0 % (5,000 to 7,400)."),
        ({"needed": (6120, 4980, INF)}, "About 6,100 .* 5.0 % (5,000 or more)."),
        ({"needed": None, "a": 0.081}, "More labels alone will not .* 5.0 %: the curve flattens at 8.1 %."),
    ],
    ids=["needed", "no upper bound", "not reachable"],
)
def test_the_labels_needed_are_said_in_words(fields: dict[str, object], said: str) -> None:
    found = drawings.curve_sentence(reports.curve(**fields)).replace(wording.SPACE, " ")
    assert re.fullmatch(re.escape(said).replace(r"\.\*", ".*"), found)


@pytest.mark.parametrize(
    "fields", [{"points": ()}, {"b": NAN}, {"needed": None}, {"needed": (9e3, 5e3, INF)}, {"points": ((50, 0.2),)}]
)
def test_a_curve_that_cannot_be_drawn_is_left_out(fields: dict[str, object]) -> None:
    is_drawn = "points" not in fields or fields["points"] != ()
    assert drawings.curve(reports.curve(**fields)).startswith("<svg") == (is_drawn and "b" not in fields)


DRAWINGS: dict[str, Callable[[], str]] = {
    "epochs": lambda: drawings.contests(reports.trials())[1].loss,
    "one epoch": lambda: plots.over_epochs([1], [plots.Line(values=(0.5,))], best=None, is_share=True),
    "constant": lambda: plots.over_epochs([1, 2], [plots.Line(values=(1.0, 1.0))], best=2, is_share=False),
    "diverged": lambda: plots.over_epochs([1, 2], [plots.Line(values=(NAN, INF))], best=None, is_share=False),
    "reliability": lambda: drawings.reliability(report.Reliability(temperature=1, before=reports.bins(), after=()))[0],
    "empty bins": lambda: plots.reliability([(0, 0.5), (0.5, 1)], [0, 0], [0, 0]),
    "curve": lambda: drawings.curve(reports.curve()),
    "heat map": lambda: plots.heat_map(np.eye(30, dtype=int).tolist()),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_a_drawing_is_sound_and_wears_the_pages_colours_and_typeface(draw: Callable[[], str]) -> None:
    drawn = draw()
    ET.fromstring(drawn)  # noqa: S314 - we made it
    assert re.findall(r"#[0-9a-fA-F]{6}\b", drawn) == []
    assert "font-family" not in drawn
    assert set(re.findall(r"var\(--(\w+)\)", drawn)) <= set(plots.COLOURS.values())


def pixels_of(drawn: str) -> np.ndarray:
    found = re.search(r"base64,\s*([^\"]*)", drawn)
    assert found is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def test_one_mistake_among_thousands_still_shows_on_the_heat_map() -> None:
    confusion = np.eye(1000, dtype=int) * 5000
    confusion[990, 3] = 1
    pixels = pixels_of(plots.heat_map(confusion.tolist()))
    wrong = (pixels[..., :3] == plots.WRONG).all(axis=-1) & (pixels[..., 3] > 0)
    assert pixels.shape[:2] == (334, 334)
    assert np.argwhere(wrong).tolist() == [[330, 1]]
    assert pixels[330, 1, 3] >= 80


def test_pictures_beyond_the_pages_size_are_left_out() -> None:
    wrong = reports.wrong(thumbnail_jpeg=b"x" * 300_000)
    shown = drawings.pictures([wrong, wrong, wrong, reports.wrong(), reports.wrong(thumbnail_jpeg=b"")])
    assert [bool(picture.data_uri) for picture in shown] == [True, True, False, True, False]
    assert math.fsum(len(picture.data_uri) for picture in shown) < drawings.MAX_PICTURES + 200
