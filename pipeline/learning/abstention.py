"""Takes confidences and which answers were right.

Gives the confidence from which answers may be trusted, with a guarantee on the share of errors among them.
Knows nothing of networks or classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """Answer where the confidence is at least `threshold`, abstain elsewhere."""

    threshold: float
    #: share of the images that are answered
    coverage: float
    #: upper bound of the share of errors among the answers
    bound: float


def threshold(
    confidences: Sequence[float] | NDArray[np.float64] | Tensor,
    is_right: Sequence[bool] | NDArray[np.bool_] | Tensor,
    *,
    target_risk: float,
    delta: float = 0.05,
) -> Abstention | None:
    """Find the lowest threshold whose error rate is at most `target_risk`, with probability 1 - delta.

    Selection with guaranteed risk (Geifman & El-Yaniv 2017): a binary search over the coverage, each step tested at
    delta / (number of steps). None where no step passes: no threshold of these images keeps the promise. The images
    must be neither those of training nor those of the temperature.
    """
    scores, right = np.asarray(confidences, dtype=np.float64), np.asarray(is_right, dtype=bool)
    if scores.shape != right.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise ValueError("There must be one finite confidence for each answer.")
    if not len(scores):
        return None
    ascending = np.sort(scores)
    num_steps = math.ceil(math.log2(len(scores) + 1))
    # Between `low`, which answers too much or was not tried, and `high`, which is safe or answers nothing.
    low, high, best = -1, len(scores), None
    for _ in range(num_steps):
        middle = (low + high) // 2
        found = _at(float(ascending[middle]), scores, right, delta / num_steps)
        if found.bound <= target_risk:
            high, best = middle, found
        else:
            low = middle
    return best


def upper_bound(num_errors: int, num: int, delta: float) -> float:
    """Give the one-sided upper bound, at confidence 1 - delta, of the error rate (Clopper & Pearson 1934).

    It is 1 where there is nothing, or nothing but errors.
    """
    if num_errors >= num:
        return 1.0
    return float(special.betaincinv(num_errors + 1, num - num_errors, 1 - delta))


def _at(lowest: float, scores: NDArray[np.float64], right: NDArray[np.bool_], delta: float) -> Abstention:
    # Ties are answered together: a threshold cannot tell them apart.
    is_answered = scores >= lowest
    num, num_errors = int(is_answered.sum()), int((is_answered & ~right).sum())
    return Abstention(threshold=lowest, coverage=num / len(scores), bound=upper_bound(num_errors, num, delta))
