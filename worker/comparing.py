"""Takes a job and its replay. Gives how far the two versions differ, and the images on which they do.

Knows nothing of commands. Reads both in the order of their items, in constant memory; of the images only the most
confident differences are kept.
"""

import heapq
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from sqlalchemy.orm import Session

from db import labels, outcomes
from db.errors import UnknownJob
from db.outcomes import Recorded
from pipeline import errors, images, references
from pipeline.learning import paired
from pipeline.learning.comparison import Change, Difference, Disagreement, Known, LabelChange
from worker import readable, replays
from worker.settings import Settings

#: Differing images that are kept, and those that one side failed on.
MOST_DIFFERING, MOST_FAILING = 200, 200
#: Pixels of the long side of a thumbnail.
THUMBNAIL = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What somebody said an image is."""

    label: str
    is_held_out: bool


@dataclass(slots=True, kw_only=True)
class _Right:
    """McNemar's counts, as they grow."""

    counts: Counter[tuple[bool, bool]] = field(default_factory=Counter)

    def known(self) -> Known | None:
        lost, gained = self.counts[True, False], self.counts[False, True]
        if not self.counts:
            return None
        return Known(
            num=self.counts.total(),
            both_right=self.counts[True, True],
            only_before_right=lost,
            only_now_right=gained,
            neither_right=self.counts[False, False],
            p=paired.p_differs(lost, gained),
        )


@dataclass(slots=True, kw_only=True)
class Comparing:
    """What was found so far."""

    nums: Counter[str] = field(default_factory=Counter)
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: sums of scores by change: before, now
    scores: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    num_failed: int = 0
    num_mended: int = 0
    num_failed_both: int = 0
    held_out: _Right = field(default_factory=_Right)
    trained_on: _Right = field(default_factory=_Right)
    #: (score now, number, difference), the least confident first
    differing: list[tuple[float, int, Difference]] = field(default_factory=list)
    failing: list[Difference] = field(default_factory=list)

    def add(self, old: Recorded, new: Recorded, truth: Truth | None) -> None:
        """Take one item in."""
        if old.label is None or new.label is None:
            self._add_failure(old, new, truth)
            return
        pair = (old.label, new.label)
        self.nums[old.label] += 1
        before, now = self.scores.get(pair, (0.0, 0.0))
        self.scores[pair] = (before + (old.score or 0.0), now + (new.score or 0.0))
        self.changes[pair] += 1
        if truth is not None:
            right = self.held_out if truth.is_held_out else self.trained_on
            right.counts[old.label == truth.label, new.label == truth.label] += 1
        if old.label != new.label:
            kept = (new.score or 0.0, -old.position, _difference(old, new, truth))
            push = heapq.heappush if len(self.differing) < MOST_DIFFERING else heapq.heappushpop
            push(self.differing, kept)

    def _add_failure(self, old: Recorded, new: Recorded, truth: Truth | None) -> None:
        self.num_failed += old.label is not None
        self.num_mended += new.label is not None
        self.num_failed_both += old.label is None and new.label is None
        if (old.label is None) != (new.label is None) and len(self.failing) < MOST_FAILING:
            self.failing.append(_difference(old, new, truth))

    def found(self) -> Disagreement:
        """Sum it up."""
        num = self.nums.total()
        num_agreeing = sum(count for (before, now), count in self.changes.items() if before == now)
        sums = [sum(part) for part in zip(*self.scores.values(), strict=True)] if num else [0.0, 0.0]
        changed = Counter({pair: count for pair, count in self.changes.items() if pair[0] != pair[1]})
        return Disagreement(
            num_compared=num,
            num_failed=self.num_failed,
            num_mended=self.num_mended,
            num_failed_both=self.num_failed_both,
            num_agreeing=num_agreeing,
            agreement=num_agreeing / num if num else None,
            score_before=sums[0] / num if num else None,
            score_now=sums[1] / num if num else None,
            score_shift=(sums[1] - sums[0]) / num if num else None,
            per_label=_per_label(self.nums, changed),
            changes=tuple(self._change(pair, count) for pair, count in _frequent(changed)),
            held_out=self.held_out.known(),
            trained_on=self.trained_on.known(),
        )

    def most_differing(self) -> list[Difference]:
        """Give the differences that were kept, the most confident first."""
        return [difference for _, _, difference in sorted(self.differing, key=lambda one: one[:2], reverse=True)]

    def _change(self, pair: tuple[str, str], num: int) -> Change:
        before, now = self.scores[pair]
        return Change(before=pair[0], now=pair[1], num=num, score_before=before / num, score_now=now / num)


def compare(reading: Session, original: uuid.UUID, replayed: uuid.UUID, model: str) -> Comparing:
    """Compare a job with its replay, item by item. Raises `UnknownJob` where the job's outcomes are gone."""
    truths = _truths(reading, model)
    comparing = Comparing()
    before = outcomes.stream(reading, original)
    for new in outcomes.stream(reading, replayed):
        # Both are in the order of the original's items, and each item of a replay is one of those.
        number = replays.number_of(new)
        old = next((old for old in before if old.position == number), None)
        if old is None:
            raise UnknownJob(f"Item {number} of job {original} is gone, so there is nothing to compare with.")
        comparing.add(old, new, truths.get(old.reference) or truths.get(old.content_sha256 or ""))
    return comparing


def with_pictures(differing: Iterable[Difference], settings: Settings) -> Iterator[Difference]:
    """Read the images, under the allowed roots alone, and make thumbnails; one that cannot be read has none."""
    roots = readable.roots(settings)
    limits = readable.limits(settings)
    for one in differing:
        yield replace(one, thumbnail_jpeg=_thumbnail(one.reference, roots, limits))


def _thumbnail(reference: str, roots: references.Roots, limits: images.Limits) -> bytes:
    try:
        return images.thumbnail(references.fetch(reference, roots, max_bytes=limits.max_bytes), limits, THUMBNAIL)
    except errors.ItemError:
        return b""


def _truths(reading: Session, model: str) -> dict[str, Truth]:
    """Read what is known of the model's images, by reference and by content."""
    found = {}
    for one in labels.current(reading, model):
        found[one.reference] = found[one.sha256] = Truth(label=one.label, is_held_out=one.split == "test")
    return found


def _difference(old: Recorded, new: Recorded, truth: Truth | None) -> Difference:
    error = new.error or old.error
    return Difference(
        reference=old.reference,
        key=old.key,
        before=old.label,
        score_before=old.score,
        now=new.label,
        score_now=new.score,
        error=error.message if error else None,
        truth=truth.label if truth else None,
    )


def _frequent(changed: Counter[tuple[str, str]]) -> list[tuple[tuple[str, str], int]]:
    return sorted(changed.items(), key=lambda one: (-one[1], one[0]))


def _per_label(nums: Counter[str], changed: Counter[tuple[str, str]]) -> tuple[LabelChange, ...]:
    into: dict[str, Counter[str]] = {}
    for (before, now), num in changed.items():
        into.setdefault(before, Counter())[now] += num
    found = [_label_change(label, num, into.get(label, Counter())) for label, num in nums.items()]
    return tuple(sorted(found, key=lambda one: (-one.changed, -one.num_changed, one.label)))


def _label_change(label: str, num: int, others: Counter[str]) -> LabelChange:
    num_changed = others.total()
    mostly = min(others, key=lambda now: (-others[now], now)) if others else None
    return LabelChange(label=label, num=num, num_changed=num_changed, changed=num_changed / num, mostly=mostly)
