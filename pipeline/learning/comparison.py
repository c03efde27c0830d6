"""Takes what two versions said of the same images. Gives one page of HTML about where they disagree.

Knows nothing of where either answer is kept. The page needs nothing but itself, and stays below 4 MB.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.learning.pages import template

#: bytes of base64 that all thumbnails may have together
MAX_PICTURES = 3_000_000
#: rows of each table on the page
MAX_ROWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelChange:
    """What became of the items of one old label."""

    label: str
    num: int
    num_changed: int
    #: share of them, 0 to 1
    changed: float
    #: what most of the changed ones are called now; None if none changed
    mostly: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Items that went from one label to another."""

    before: str
    now: str
    num: int
    #: means over these items
    score_before: float
    score_now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Compared items whose label somebody has given: McNemar's four counts."""

    num: int
    both_right: int
    only_before_right: int
    only_now_right: int
    neither_right: int
    #: exact two-sided p of McNemar's test: how often as uneven a split comes from two that are equally good
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """How far two versions differ on the same items."""

    #: items that both labelled
    num_compared: int
    #: items that only the version before labelled
    num_failed: int
    #: items that only the other version labelled
    num_mended: int
    #: items that neither labelled
    num_failed_both: int
    num_agreeing: int
    #: share of the compared, 0 to 1; None if there are none
    agreement: float | None
    #: means over the compared; None if there are none
    score_before: float | None
    score_now: float | None
    #: now minus before
    score_shift: float | None
    #: the most changed first
    per_label: tuple[LabelChange, ...]
    #: from one label to another, the most frequent first
    changes: tuple[Change, ...]
    #: on images that no run was trained on (the split `test`); None where no label is known
    held_out: Known | None
    #: on images that runs were trained or tuned on, which flatters whoever was trained on them
    trained_on: Known | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An item on which the two differ: in its label, or in that one of them failed."""

    reference: str
    key: str | None
    before: str | None
    score_before: float | None
    now: str | None
    score_now: float | None
    #: why the one that failed did
    error: str | None = None
    #: what somebody said it is
    truth: str | None = None
    #: empty where the image could not be read
    thumbnail_jpeg: bytes = b""

    @property
    def data_uri(self) -> str:
        """Give the thumbnail as something a page can show."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.thumbnail_jpeg).decode()}" if self.thumbnail_jpeg else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything the page shows."""

    model: str
    #: `model:number`
    before: str
    now: str
    job_id: str
    replay_id: str
    at_s: float
    #: the replay has ended
    is_whole: bool
    found: Disagreement
    #: other labels, the most confident of the other version first
    differing: Sequence[Difference]
    #: items that one of them failed on
    failing: Sequence[Difference]

    @property
    def num_differing(self) -> int:
        """Count the items with another label, those without a picture too."""
        return self.found.num_compared - self.found.num_agreeing


def render(comparison: Comparison) -> bytes:
    """Give the page as UTF-8 HTML; pictures beyond `MAX_PICTURES` are left out."""
    uris: list[str] = []
    num_bytes = 0
    for one in comparison.differing:
        uri = one.data_uri
        num_bytes += len(uri)
        uris.append(uri if num_bytes <= MAX_PICTURES else "")
    return template.fill_comparison(comparison, uris, max_rows=MAX_ROWS).encode()
