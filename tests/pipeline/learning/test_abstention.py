"""A threshold keeps its promise, or there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.learning import abstention


@pytest.mark.parametrize(
    ("num_errors", "num", "bound"),
    [
        (0, 59, 0.0495),
        (0, 100, 0.0295),
        (0, 299, 0.0100),
        (5, 500, 0.0209),
        (10, 1000, 0.0169),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_the_upper_bound_is_clopper_and_pearsons(num_errors: int, num: int, bound: float) -> None:
    assert abstention.upper_bound(num_errors, num, 0.05) == pytest.approx(bound, abs=5e-5)


def test_the_upper_bound_is_scipys_exact_interval() -> None:
    interval = stats.binomtest(7, 90, alternative="less").proportion_ci(confidence_level=0.9, method="exact")
    assert abstention.upper_bound(7, 90, 0.1) == pytest.approx(interval.high)


def drawn(num: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Give confidences, and answers that are right as often as these say."""
    confidences = generator.beta(4, 1.2, num)
    return confidences, generator.random(num) < confidences


@pytest.mark.parametrize("target_risk", [0.05, 0.1])
def test_the_promised_risk_is_exceeded_in_five_percent_of_simulations_at_most(target_risk: float) -> None:
    generator = np.random.default_rng(0)
    confidences, is_right = drawn(1_000_000, generator)
    order = np.argsort(-confidences)
    risks = np.cumsum(~is_right[order]) / np.arange(1, 1_000_001)
    ascending, num_broken, coverages = confidences[order][::-1], 0, []
    for _ in range(200):
        found = abstention.threshold(*drawn(2000, generator), target_risk=target_risk)
        if found is not None:
            num_answered = 1_000_000 - np.searchsorted(ascending, found.threshold)
            num_broken += risks[num_answered - 1] > target_risk
            coverages.append(found.coverage)
    assert num_broken / 200 <= 0.05
    assert np.median(coverages) > {0.05: 0.08, 0.1: 0.35}[target_risk], "and it is of use"


def test_the_coverage_and_the_bound_are_those_of_the_threshold() -> None:
    confidences, is_right = drawn(2000, np.random.default_rng(1))
    found = abstention.threshold(torch.from_numpy(confidences), torch.from_numpy(is_right), target_risk=0.1)
    assert found is not None
    answered = confidences >= found.threshold
    assert found.coverage == answered.mean()
    # Eleven steps of the search share the five percent.
    bound = abstention.upper_bound(int((answered & ~is_right).sum()), int(answered.sum()), 0.05 / 11)
    assert found.bound == pytest.approx(bound)
    assert found.bound <= 0.1


def test_a_promise_that_cannot_be_kept_gets_no_threshold() -> None:
    generator = np.random.default_rng(2)
    assert abstention.threshold(*drawn(2000, generator), target_risk=0.005) is None
    assert abstention.threshold(np.ones(50), np.ones(50, dtype=bool), target_risk=0.05) is None, "50 are too few"
    assert abstention.threshold(np.ones(500), np.zeros(500, dtype=bool), target_risk=0.5) is None
    assert abstention.threshold([], [], target_risk=0.5) is None


def test_a_model_that_is_never_wrong_answers_everything() -> None:
    found = abstention.threshold(np.linspace(0.3, 1, 1024), np.ones(1024, dtype=bool), target_risk=0.05)
    assert found is not None
    assert (found.threshold, found.coverage) == (0.3, 1.0)


def test_equal_confidences_are_answered_together() -> None:
    confidences = np.array([0.9] * 600 + [0.5] * 400)
    is_right = np.array([True] * 600 + [False] * 400)
    found = abstention.threshold(confidences, is_right, target_risk=0.05)
    assert found is not None
    assert (found.threshold, found.coverage) == (0.9, 0.6)


@pytest.mark.parametrize(
    ("confidences", "is_right"), [([0.5, float("nan")], [True, True]), ([0.5], [True, False]), ([[0.5]], [[True]])]
)
def test_what_is_no_list_of_confidences_and_answers_is_refused(confidences: list, is_right: list) -> None:
    with pytest.raises(ValueError, match="one finite confidence"):
        abstention.threshold(confidences, is_right, target_risk=0.1)
