"""The lecture's table, cell by cell and bound by bound: what is trained, and why."""

from __future__ import annotations

import re

import pytest

from pipeline.errors import RecipeInvalid
from pipeline.learning import plan
from pipeline.learning.plan import Amount, Likeness, Strategy, Thresholds

DEFAULTS = Thresholds()
#: training images in all and of the median class, that lie well inside each amount
AMOUNTS: dict[Amount, tuple[int, float]] = {"scarce": (200, 20), "grey": (1200, 120), "plentiful": (5000, 500)}
#: few-shot scores that lie well inside each similarity
SCORES: dict[Likeness, float] = {"similar": 0.9, "grey": 0.6, "dissimilar": 0.3}

CELLS: list[tuple[Amount, Likeness, str, tuple[Strategy, ...]]] = [
    ("plentiful", "similar", "feature extraction: freeze the backbone", ("head", "last_stage")),
    ("plentiful", "grey", "nothing certain", ("all", "head")),
    ("plentiful", "dissimilar", "fine-tune all layers", ("all", "head")),
    ("grey", "similar", "nothing certain", ("head", "all")),
    ("grey", "grey", "nothing certain", ("all", "head")),
    ("grey", "dissimilar", "nothing certain", ("all", "head")),
    ("scarce", "similar", "feature extraction only", ("head",)),
    ("scarce", "grey", "nothing certain", ("all", "head")),
    ("scarce", "dissimilar", "not recommended", ()),
]


def decided(amount: Amount, likeness: Likeness, **options: object) -> plan.Plan:
    return plan.decide(*AMOUNTS[amount], SCORES[likeness], 0.2, DEFAULTS, **options)


@pytest.mark.parametrize(
    ("amount", "likeness", "lecture", "candidates"), CELLS, ids=[f"{row[0]} and {row[1]}" for row in CELLS]
)
def test_each_cell_has_its_answer(
    amount: Amount, likeness: Likeness, lecture: str, candidates: tuple[Strategy, ...]
) -> None:
    found = decided(amount, likeness)
    assert (found.amount, found.likeness, found.candidates) == (amount, likeness, candidates)
    assert found.lecture.startswith(lecture)
    assert found.strategy == (candidates[0] if candidates else None)
    assert found.is_recommended is bool(candidates)
    assert bool(found.instead) is not found.is_recommended


def test_scarce_and_dissimilar_schedules_nothing_and_says_what_to_do_instead() -> None:
    found = decided("scarce", "dissimilar", labels_needed="0.90 would take about 3,000 training images.")
    assert (found.strategy, found.candidates, found.is_recommended) == (None, (), False)
    assert found.instead[0] == "0.90 would take about 3,000 training images."
    assert "Label more images" in found.instead[1]
    assert found.cell == "scarce, dissimilar"


def test_force_trains_what_is_not_recommended_and_changes_nothing_else() -> None:
    found = decided("scarce", "dissimilar", forced=True)
    assert (found.strategy, found.candidates, found.is_recommended) == ("head", ("head", "last_stage"), False)
    assert "It was forced, so it is trained all the same." in found.reasons
    for amount, likeness, _, candidates in CELLS:
        if candidates:
            assert decided(amount, likeness, forced=True) == decided(amount, likeness)


@pytest.mark.parametrize(
    ("num", "num_per_class", "expected"),
    [
        (499, 100, "scarce"), (500, 100, "grey"), (500, 9.5, "scarce"), (500, 10, "grey"), (1999, 500, "grey"),
        (2000, 25, "plentiful"), (2000, 24.5, "grey"), (100_000, 9, "scarce"), (0, 0, "scarce"),
    ],
)  # fmt: skip
def test_the_bounds_of_the_amount(num: int, num_per_class: float, expected: Amount) -> None:
    assert plan.amount_of(num, num_per_class, DEFAULTS) == expected


@pytest.mark.parametrize(
    ("score", "gain", "expected"),
    [
        (0.75, 0.1, "similar"), (0.7499, 0.1, "grey"), (0.50, 0.1, "grey"), (0.4999, 0.1, "dissimilar"),
        (0.9, 0.0, "grey"), (0.9, -0.1, "grey"), (0.9, 1e-9, "similar"), (0.9, None, "similar"),
        (0.2, -0.1, "dissimilar"), (-0.05, None, "dissimilar"), (1.0, 0.5, "similar"),
    ],
)  # fmt: skip
def test_the_bounds_of_the_similarity(score: float, gain: float | None, expected: Likeness) -> None:
    assert plan.likeness_of(score, gain, DEFAULTS) == expected


def test_the_reasons_give_the_numbers_and_the_bounds() -> None:
    reasons = decided("scarce", "grey").reasons
    assert reasons[0] == "200 training images, 20 of the median class: scarce (below 500 or 10)."
    assert reasons[1] == "Few-shot score 0.60, +0.20 over the controls: similarity in between (from 0.5 to 0.75)."
    assert "all layers are trained from the head" in reasons[2]


def test_an_easy_task_is_not_taken_for_similarity() -> None:
    found = plan.decide(*AMOUNTS["scarce"], 0.9, -0.02, DEFAULTS)
    assert found.likeness == "grey"
    assert any("colours alone do as well" in reason for reason in found.reasons)


def test_controls_that_were_not_measured_are_said_to_be_so() -> None:
    found = plan.decide(*AMOUNTS["scarce"], 0.9, None, DEFAULTS)
    assert any("the controls were not measured" in reason for reason in found.reasons)


def test_labels_without_a_signal_are_pointed_out() -> None:
    assert any("check the labels" in reason for reason in decided("grey", "dissimilar", has_signal=False).reasons)
    assert not any("check the labels" in reason for reason in decided("grey", "dissimilar").reasons)


def test_every_reason_is_a_sentence() -> None:
    for amount, likeness, *_ in CELLS:
        found = decided(amount, likeness)
        for sentence in (*found.reasons, *found.instead):
            assert re.fullmatch(r"[A-Z0-9].*\.", sentence)


def test_other_thresholds_move_the_bounds() -> None:
    loose = Thresholds(scarce_num=50, plentiful_num=100, similar=0.4, dissimilar=0.2)
    assert plan.decide(200, 40, 0.45, 0.1, loose).cell == "plentiful, similar"


@pytest.mark.parametrize(
    "fields",
    [{"scarce_num": 3000}, {"scarce_per_class": 30}, {"similar": 0.4}, {"similar": 1.5}, {"dissimilar": -2}],
    ids=[
        "scarce above plentiful",
        "scarce above plentiful per class",
        "similar below dissimilar",
        "above 1",
        "below -1",
    ],
)
def test_thresholds_that_contradict_each_other_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(RecipeInvalid):
        Thresholds(**fields)  # type: ignore[arg-type]
