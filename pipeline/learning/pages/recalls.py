"""Takes the scores of challenger and champion.

Gives what they say class by class: recalls, the confusion matrix, and which classes are mixed up most.
Knows nothing of HTML or drawings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.learning.report import ClassScores, Scores

#: pairs of classes that are mixed up, listed
MAX_MIX_UPS = 8
#: standard errors to each side that hold 95 %
Z = 1.959964
#: strength of a mistake's colour at least
FAINTEST = 0.18


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class of the challenger beside the champion's."""

    number: int
    scores: ClassScores
    #: the champion's recall; None where it does not know the class or had nothing to recall
    champion: float | None
    is_new: bool

    @property
    def change(self) -> float | None:
        """Recall of the challenger minus the champion's."""
        return None if self.scores.recall is None or self.champion is None else self.scores.recall - self.champion


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the confusion matrix."""

    count: int
    #: of its row, 0..1
    share: float
    is_right: bool

    @property
    def strength(self) -> float:
        """How strong its colour is, 0..1: a single mistake among hundreds must still show."""
        return self.share if self.is_right else max(FAINTEST, math.sqrt(self.share))


@dataclass(frozen=True, slots=True, kw_only=True)
class MixUp:
    """Images of one class that were taken for another."""

    label: str
    predicted: str
    count: int
    #: test images with that label
    num: int


def class_rows(challenger: Scores, champion: Scores | None) -> tuple[ClassRow, ...]:
    """Pair each class of the challenger with the champion's of the same name."""
    known = {scores.name: scores.recall for scores in champion.per_class} if champion else {}
    return tuple(
        ClassRow(
            number=number,
            scores=scores,
            champion=known.get(scores.name),
            is_new=champion is not None and scores.name not in known,
        )
        for number, scores in enumerate(challenger.per_class)
    )


def recall_of(row: ClassRow) -> float:
    """Give what classes are sorted by: the recall, and those without test images last."""
    return math.inf if row.scores.recall is None else row.scores.recall


def wilson(share: float, num: int) -> tuple[float, float] | None:
    """Give the 95 % interval of a share of `num` (Wilson 1927); None where num is 0."""
    if not num:
        return None
    middle = (share + Z * Z / (2 * num)) / (1 + Z * Z / num)
    half = Z / (1 + Z * Z / num) * math.sqrt(share * (1 - share) / num + Z * Z / (4 * num * num))
    return max(0.0, middle - half), min(1.0, middle + half)


def cells(confusion: Sequence[Sequence[int]]) -> tuple[tuple[Cell, ...], ...]:
    """Give each count its share of its row."""
    return tuple(
        tuple(
            Cell(count=count, share=count / max(1, sum(counts)), is_right=label == predicted)
            for predicted, count in enumerate(counts)
        )
        for label, counts in enumerate(confusion)
    )


def mix_ups(scores: Scores) -> tuple[MixUp, ...]:
    """List the pairs of classes that are mixed up most, by count."""
    names = [each.name for each in scores.per_class]
    pairs = sorted(
        (
            (count, label, predicted)
            for label, counts in enumerate(scores.confusion)
            for predicted, count in enumerate(counts)
            if count and label != predicted
        ),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    return tuple(
        MixUp(label=names[label], predicted=names[predicted], count=count, num=sum(scores.confusion[label]))
        for count, label, predicted in pairs[:MAX_MIX_UPS]
    )
