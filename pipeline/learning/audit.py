"""Takes labels, what heads that never saw them say, and fingerprints.

Gives which labels a person should look at again, and which pictures are on both sides of a split.
Knows nothing of who labelled them or how a label is corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning.evaluation import OutOfFold

#: a wrong test label costs most: it judges every version
SPLITS = ("test", "val", "train")
#: bits of the dHash in which near duplicates differ at most
MAX_DISTANCE = 4
#: hashes that are compared with all others at a time
NUM_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A label that the other labels speak against."""

    #: row of the item
    index: int
    #: class number it has
    label: int
    #: class number it may deserve
    suggested: int
    #: out-of-fold probability of both
    p_label: float
    p_suggested: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Two near duplicates in different splits."""

    #: rows of the items, lower first
    first: int
    second: int
    #: bits in which their hashes differ
    distance: int


def suspects(found: OutOfFold, targets: Sequence[int] | Tensor, splits: Sequence[str]) -> list[Suspect]:
    """Find labels to look at again, those of the test split first, the least probable label first.

    Confident learning (Northcutt et al. 2021): t_j is the mean p_j of the items labelled j; an item is suspect if,
    among the classes k with p_k >= t_k, the most probable is not its label. About half of the finds on hard data
    are real. Raise TypeError for anything but OutOfFold: a head that was fitted on a label always believes it.
    """
    if not isinstance(found, OutOfFold):
        raise TypeError("Labels are audited by out-of-fold probabilities; those of a fitted head repeat its labels.")
    shares = found.probabilities.double().cpu().numpy()
    labels = np.asarray(targets, dtype=np.int64)
    if not len(labels) == len(splits) == len(shares):
        raise ValueError(f"{len(shares)} probabilities need as many labels and splits.")
    confident = np.where(shares >= _thresholds(shares, labels), shares, -1.0)
    suggested = confident.argmax(axis=1)
    is_suspect = (confident.max(axis=1) >= 0) & (suggested != labels)
    rows = [
        Suspect(
            index=int(index),
            label=int(labels[index]),
            suggested=int(suggested[index]),
            p_label=float(shares[index, labels[index]]),
            p_suggested=float(shares[index, suggested[index]]),
        )
        for index in np.flatnonzero(is_suspect)
    ]
    return sorted(rows, key=lambda row: (SPLITS.index(splits[row.index]), row.p_label, row.index))


def _thresholds(shares: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give t [C]; infinite for a class that no item is labelled with."""
    num_classes = shares.shape[1]
    num = np.bincount(labels, minlength=num_classes)
    total = np.bincount(labels, weights=shares[np.arange(len(labels)), labels], minlength=num_classes)
    return np.where(num > 0, total / np.maximum(num, 1), np.inf)


def leaks(
    dhashes: Sequence[int], splits: Sequence[str], looks_alike: Callable[[int, int], bool] = lambda _a, _b: True
) -> list[Leak]:
    """Find pairs of near duplicates in different splits: the network is asked what it was taught.

    Hashes are unsigned 64 bits. `looks_alike` says of two rows of near hashes whether they show the same picture; by
    the hash alone simple pictures, such as drawn digits, have many false twins. Splits other than SPLITS are ignored.
    """
    hashes, sides = np.asarray(dhashes, dtype=np.uint64), np.asarray(splits, dtype=str)
    if len(hashes) != len(sides):
        raise ValueError(f"{len(hashes)} hashes need as many splits.")
    found = [
        Leak(first=min(pair), second=max(pair), distance=distance)
        for one, other in combinations(SPLITS, 2)
        for *pair, distance in _near(hashes, np.flatnonzero(sides == one), np.flatnonzero(sides == other))
        if looks_alike(pair[0], pair[1])
    ]
    return sorted(found, key=lambda leak: (leak.first, leak.second))


def _near(
    hashes: NDArray[np.uint64], ones: NDArray[np.int64], others: NDArray[np.int64]
) -> Iterator[tuple[int, int, int]]:
    for start in range(0, len(ones), NUM_ROWS):
        rows = ones[start : start + NUM_ROWS]
        distances = np.bitwise_count(hashes[rows, None] ^ hashes[None, others])
        for row, column in np.argwhere(distances <= MAX_DISTANCE):
            yield int(rows[row]), int(others[column]), int(distances[row, column])
