"""Exact p-values, Holm's order, and bounds that promise no more than few images can tell."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.learning import paired
from pipeline.learning.paired import Difference, Paired


@pytest.mark.parametrize(
    ("lost", "gained", "two_sided", "one_sided"),
    [
        (5, 15, 0.04139, 0.02069), (10, 25, 0.01667, 0.00834), (10, 20, 0.09874, 0.04937),
        (0, 6, 0.03125, 0.01562), (0, 5, 0.0625, 0.03125), (30, 45, 0.10534, 0.05267), (0, 0, 1.0, 1.0),
    ],
)  # fmt: skip
def test_mcnemars_exact_p(lost: int, gained: int, two_sided: float, one_sided: float) -> None:
    assert paired.p_differs(lost, gained) == paired.p_differs(gained, lost) == pytest.approx(two_sided, abs=1e-5)
    assert paired.p_better(lost, gained) == pytest.approx(one_sided, abs=1e-5)


@pytest.mark.parametrize(("lost", "gained"), [(3, 3), (0, 1), (7, 2), (40, 61)])
def test_mcnemars_p_is_the_binomial_tests(lost: int, gained: int) -> None:
    exact = stats.binomtest(gained, lost + gained, alternative="greater").pvalue
    assert paired.p_better(lost, gained) == pytest.approx(exact)
    assert paired.p_differs(lost, gained) == pytest.approx(stats.binomtest(gained, lost + gained).pvalue)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01, 0.04, 0.03], [True, False, False]),
        ([0.04, 0.01, 0.02], [True, True, True]),
        ([0.02, 0.02, 0.02], [False, False, False]),
        ([0.0, 0.06], [True, False]),
        ([], []),
    ],
)
def test_holm_stops_at_the_first_that_stands(p_values: list[float], expected: list[bool]) -> None:
    assert paired.holm(p_values, 0.05) == expected


def test_counting_sorts_images_by_class_and_by_who_is_right() -> None:
    targets = np.array([0, 0, 0, 1, 1, 3])
    was_right = np.array([True, True, False, False, True, True])
    is_right = np.array([True, False, True, True, True, False])
    found = paired.count(targets, was_right, is_right, 5)
    assert found.num.tolist() == [3, 2, 0, 1, 0]
    assert found.lost.tolist() == [1, 0, 0, 1, 0]
    assert found.gained.tolist() == [1, 1, 0, 0, 0]
    assert (found.num_images, found.discordance) == (6, pytest.approx(4 / 6))


def bounded(num: list[int], lost: list[int], gained: list[int], *, margin: float = 0.02, seed: int = 0) -> Difference:
    counts = Paired(num=np.array(num), lost=np.array(lost), gained=np.array(gained))
    return paired.difference(counts, margin, alpha=0.05, num_resamples=2000, seed=seed)


def test_many_images_give_the_textbooks_bound() -> None:
    found = bounded([500] * 10, [25] * 10, [25] * 10)
    textbook = 1.6449 * (0.1 / 5000) ** 0.5
    assert found.estimate == 0
    assert found.half_width == pytest.approx(textbook, rel=0.01)
    assert found.lower == pytest.approx(-textbook, rel=0.05)
    assert found.upper == pytest.approx(textbook, rel=0.05)
    assert found.p_worse == pytest.approx(0.5)


def test_classes_weigh_alike_whatever_their_number_of_images() -> None:
    found = bounded([1000, 10], [100, 0], [0, 1])
    assert found.estimate == pytest.approx((-0.1 + 0.1) / 2)


def test_the_same_seed_gives_the_same_bounds_and_another_nearly_the_same() -> None:
    first, again, other = (bounded([200] * 5, [12] * 5, [6] * 5, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first.lower == pytest.approx(other.lower, abs=0.002)


@pytest.mark.parametrize(("num", "margin"), [(100, 0.03), (1000, 0.01)])
def test_models_that_never_differ_are_not_thought_equal_on_few_images(num: int, margin: float) -> None:
    found = bounded([num // 4] * 4, [0] * 4, [0] * 4, margin=margin)
    no_events_yet = 1 - 0.05 ** (1 / num)
    assert found.lower == -found.half_width
    assert found.half_width > 0.9 * no_events_yet


def test_a_class_with_one_image_has_the_variance_of_the_others() -> None:
    without, with_one = bounded([300] * 3, [15] * 3, [15] * 3), bounded([300] * 3 + [1], [15] * 3 + [0], [15] * 3 + [0])
    assert with_one.half_width > 3 * without.half_width


def test_classes_without_images_count_for_nothing_and_no_images_say_nothing() -> None:
    assert bounded([300, 0], [15, 0], [9, 0]) == bounded([300], [15], [9])
    assert bounded([0, 0], [0, 0], [0, 0]).half_width == 1.0


@pytest.mark.parametrize(
    ("num", "margin", "discordance"),
    [(100, 0.03, 0.03), (150, 0.03, 0.04), (300, 0.03, 0.05), (300, 0.03, 0.1), (700, 0.02, 0.02), (2800, 0.01, 0.03)],
)
def test_a_challenger_worse_by_the_margin_hardly_ever_passes(num: int, margin: float, discordance: float) -> None:
    generator = np.random.default_rng(0)
    shares = [(discordance + margin) / 2, (discordance - margin) / 2, 1 - discordance]
    passed = 0
    for lost, gained, _ in generator.multinomial(num, shares, size=1000).tolist():
        counts = Paired(num=np.array([num]), lost=np.array([lost]), gained=np.array([gained]))
        found = paired.difference(counts, margin, alpha=0.05, num_resamples=400, seed=1)
        passed += found.lower > -margin and found.half_width <= margin
    assert passed / 1000 <= 0.05 + 2 * (0.05 * 0.95 / 1000) ** 0.5
