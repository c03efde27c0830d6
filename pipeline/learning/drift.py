"""Takes the scores of a version on its test images, and those it gave lately.

Gives whether the two still look alike. It may ask for a retrain; it says nothing of accuracy, and promotes nothing.
Knows nothing of jobs, outcomes or schedules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

#: items of a window: below, a moved prior (.1 to .3) is missed more often than seen (power .42, .76 and .98 at 50,
#: 100 and 200 items of 10 classes)
WINDOW = 200
#: windows in a row that must alarm before anybody is called
IN_A_ROW = 2
#: decimals that scores are compared at: serving may have computed in bf16, which carries no more
DECIMALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far a window is from the reference."""

    #: smallest p of the columns
    min_p: float
    #: the column that has it
    column: int
    #: min_p is below alpha / columns
    is_alarm: bool
    #: items of the window
    num: int


def bbsd(reference: NDArray[np.float64], window: NDArray[np.float64], alpha: float = 0.05) -> Drift:
    """Compare probabilities [N, K] and [M, K] column by column (Kolmogorov-Smirnov, Bonferroni).

    Black box shift detection: tests on a classifier's own outputs find shifts best (Rabanser et al. 2019). Raise
    ValueError where the columns differ or there are no rows.
    """
    if reference.ndim != 2 or reference.shape[1:] != window.shape[1:] or not len(reference) or not len(window):
        raise ValueError(f"Scores {reference.shape} and {window.shape} cannot be compared.")
    then, now = reference.round(DECIMALS), window.round(DECIMALS)
    # The asymptotic p: the exact one costs seconds at these sizes and differs in the third digit.
    p_values = np.atleast_1d(stats.ks_2samp(then, now, axis=0, method="asymp").pvalue)
    column = int(np.argmin(p_values))
    min_p = float(p_values[column])
    return Drift(min_p=min_p, column=column, is_alarm=min_p < alpha / len(p_values), num=len(window))


def is_confirmed(alarms: Sequence[bool]) -> bool:
    """Say whether the last IN_A_ROW windows, oldest first, all alarmed."""
    return len(alarms) >= IN_A_ROW and all(alarms[-IN_A_ROW:])


def truncated(rows: Sequence[Sequence[tuple[str, float]]], classes: Sequence[str], k: int) -> NDArray[np.float64]:
    """Turn recorded (label, score) lists, best first, into what `cut` makes of all scores.

    Raise ValueError for an unknown label, and for a row with fewer than k of its C scores: it says nothing of the
    others.
    """
    columns, num_kept = {name: column for column, name in enumerate(classes)}, min(k, len(classes))
    matrix = np.zeros((len(rows), len(classes)))
    for number, row in enumerate(rows):
        if len(row) < num_kept or any(label not in columns for label, _ in row):
            raise ValueError(f"Row {number} does not hold the {num_kept} best scores of these classes.")
        for label, score in row[:num_kept]:
            matrix[number, columns[label]] = score
    return _with_ranks(matrix, num_kept)


def cut(probabilities: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Turn [N, C] into [N, C + k]: the k largest scores of each row in their columns, 0 elsewhere; then by rank."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    matrix = probabilities.copy()
    np.put_along_axis(matrix, order[:, k:], 0.0, axis=1)
    return _with_ranks(matrix, min(k, probabilities.shape[1]))


def _with_ranks(matrix: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    # In a class's column most rows are 0 when few scores are kept, and doubt does not show. Measured with 3 of 10
    # scores: noise of 1.5 is seen in 2 % of windows by the classes' columns alone, and in 98 % with the ranks.
    return np.hstack([matrix, -np.sort(-matrix, axis=1)[:, :k]])
