"""Drift is seen when it is there, and seldom when it is not."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy import stats

from pipeline.learning import drift

EVEN = np.full(10, 0.1)
#: the first class came to three in ten
MOVED = np.array([0.3, *[0.7 / 9] * 9])


def scores(num: int, generator: np.random.Generator, prior: np.ndarray = EVEN, noise: float = 1.0) -> np.ndarray:
    """Give the softmax of a classifier of ten classes, [num, 10]."""
    logits = generator.normal(0, noise, (num, 10))
    logits[np.arange(num), generator.choice(10, num, p=prior)] += 3.0
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def share_of_alarms(num_windows: int, num: int, *, k: int = 10, **fields: object) -> float:
    generator = np.random.default_rng(0)
    alarms = []
    for _ in range(num_windows):
        reference = drift.cut(scores(1000, generator), k)
        alarms.append(drift.bbsd(reference, drift.cut(scores(num, generator, **fields), k)).is_alarm)
    return float(np.mean(alarms))


@pytest.mark.parametrize("k", [10, 3])
def test_windows_like_the_reference_seldom_alarm(k: int) -> None:
    assert share_of_alarms(200, drift.WINDOW, k=k) <= 0.08


@pytest.mark.parametrize("k", [10, 3])
@pytest.mark.parametrize("fields", [{"prior": MOVED}, {"noise": 1.5}], ids=["prior", "noise"])
def test_a_moved_prior_and_noise_are_seen_in_a_window(fields: dict[str, object], k: int) -> None:
    assert share_of_alarms(50, drift.WINDOW, k=k, **fields) >= 0.9


def test_the_column_that_moved_most_is_named_with_its_exact_p() -> None:
    generator = np.random.default_rng(1)
    reference, window = scores(1000, generator), scores(400, generator, MOVED)
    found = drift.bbsd(reference, window)
    expected = stats.ks_2samp(reference[:, 0].round(3), window[:, 0].round(3), method="asymp").pvalue
    assert (found.column, found.num, found.is_alarm) == (0, 400, True)
    assert found.min_p == pytest.approx(expected)


def test_scores_that_differ_by_the_last_bits_of_bf16_are_the_same() -> None:
    generator = np.random.default_rng(2)
    sure = scores(1000, generator) ** 8
    sure /= sure.sum(axis=1, keepdims=True)
    rough = sure * (1 + generator.uniform(-1e-5, 1e-5, sure.shape))
    assert not drift.bbsd(sure, rough).is_alarm


@pytest.mark.parametrize("shapes", [((5, 3), (5, 4)), ((0, 3), (5, 3)), ((5, 3), (0, 3)), ((5,), (5,))], ids=str)
def test_scores_that_cannot_be_compared_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        drift.bbsd(np.zeros(shapes[0]), np.zeros(shapes[1]))


@pytest.mark.parametrize(
    ("alarms", "is_confirmed"),
    [([], False), ([True], False), ([True, True], True), ([True, False, True], False), ([False, True, True], True)],
)
def test_two_alarms_running_confirm(alarms: list[bool], is_confirmed: bool) -> None:
    assert drift.is_confirmed(alarms) is is_confirmed


def test_recorded_rows_compare_with_a_reference_cut_to_as_many() -> None:
    probabilities = np.array([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]])
    rows = [[("cat", 0.5), ("hen", 0.3)], [("dog", 0.8), ("cat", 0.1), ("hen", 0.1)]]
    expected = [[0.5, 0, 0.3, 0.5, 0.3], [0.1, 0.8, 0, 0.8, 0.1]]
    assert drift.truncated(rows, ("cat", "dog", "hen"), 2).tolist() == expected
    assert drift.cut(probabilities, 2).tolist() == expected
    assert drift.cut(probabilities, 5)[:, :3].tolist() == probabilities.tolist()
    assert drift.truncated([], ("cat", "dog", "hen"), 2).shape == (0, 5)


@pytest.mark.parametrize("row", [[("cat", 0.9)], [("cat", 0.9), ("cow", 0.1)]], ids=["too short", "unknown"])
def test_a_recorded_row_that_does_not_say_enough_is_refused(row: list[tuple[str, float]]) -> None:
    with pytest.raises(ValueError, match="Row 0 does not hold the 2 best scores"):
        drift.truncated([row], ("cat", "dog", "hen"), 2)


def test_drift_knows_no_way_to_the_gate() -> None:
    assert "gate" not in {name for name in vars(drift) if inspect.ismodule(getattr(drift, name))}
