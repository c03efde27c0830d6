"""Takes plain numbers.

Gives vector drawings for the middle of a page: their colours are the page's own, so they follow light and dark.
Knows nothing of HTML around them, of names that strangers gave, or of what was measured.
"""

from __future__ import annotations

import math
import re
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

#: Stand-ins, one for each colour the page's style sheet names; `_themed` swaps them for the names.
INK, MUTED, LINE, ACCENT, OLD = "#010101", "#010102", "#010103", "#010104", "#010105"
COLOURS = {INK: "ink", MUTED: "muted", LINE: "line", ACCENT: "accent", OLD: "old"}
#: pixels of the page; as wide as a phone shows without shrinking the text much
WIDTH, HEIGHT = 376, 220
#: pixels
FONT_SIZE = 11.5
#: RGB of the two hues of the heat map, right and wrong; they are read on light and on dark
RIGHT, WRONG = (59, 111, 220), (217, 95, 30)
#: pixels of a side of the heat map; no screen shows more of it
MAX_PIXELS = 400
#: dots, and short dashes
DOTTED, DASHED = (0, (1.5, 1.5)), (0, (3, 2.5))
#: some settings of matplotlib are the process's, so that drawings take turns
TURN = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A series over epochs."""

    #: one for each epoch
    values: tuple[float, ...]
    #: one of the stand-ins
    colour: str = ACCENT
    is_dashed: bool = False


def over_epochs(numbers: Sequence[int], lines: Sequence[Line], *, best: int | None, is_share: bool) -> str:
    """Draw series over epoch numbers, with an upright line at the epoch that was kept."""
    figure, axes = _figure()
    if best is not None:
        axes.axvline(best, color=LINE, linewidth=6, solid_capstyle="butt", zorder=0)
    for line in lines:
        axes.plot(
            numbers, line.values, color=line.colour, linewidth=1.8, linestyle=DASHED if line.is_dashed else "-",
            marker="o", markersize=3.2 if len(numbers) <= 30 else 0, markeredgewidth=0,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if is_share:
        axes.yaxis.set_major_formatter(FuncFormatter(_per_cent))
    axes.set_xlabel("epoch")
    axes.margins(x=0.04, y=0.1)
    return _themed(figure)


def reliability(edges: Sequence[tuple[float, float]], accuracies: Sequence[float], nums: Sequence[int]) -> str:
    """Draw accuracy over confidence as bars beside the diagonal, and how many predictions each bin holds below."""
    figure, axes = _figure(height=280, bottom=0.36)
    below = figure.add_axes((0.13, 0.145, 0.84, 0.15))
    _plain(below)
    lows, widths = [low for low, _ in edges], [0.86 * (high - low) for low, high in edges]
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=DASHED, zorder=3)
    heights = [accuracy if num else 0 for accuracy, num in zip(accuracies, nums, strict=True)]
    axes.bar(lows, heights, widths, align="edge", color=ACCENT, alpha=0.8, linewidth=0)
    below.bar(lows, nums, widths, align="edge", color=OLD, linewidth=0)
    axes.set_ylim(0, 1)
    for axis in (axes.xaxis, axes.yaxis, below.xaxis):
        axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        axis.set_major_formatter(FuncFormatter(_per_cent))
    axes.set_xlim(0, 1)
    axes.tick_params(labelbottom=False)
    below.set(xlim=(0, 1), yticks=[], xlabel="confidence")
    return _themed(figure)


def error_over_labels(
    points: Sequence[tuple[float, float]],
    law: tuple[float, float, float],
    *,
    target: float,
    needed: tuple[float, float, float] | None,
) -> str:
    """Draw measured errors, a + b * n ** -c through them, the wanted error and the labels that reach it."""
    figure, axes = _figure(height=250)
    nums, errors = [num for num, _ in points], [error for _, error in points]
    # A logarithmic axis has no zero, and an estimate of no labels at all is one.
    ends = [max(1.0, end) for end in (*nums, *(needed or ())) if math.isfinite(end)]
    grid = np.geomspace(max(1.0, min(ends) * 0.8), max(ends) * 1.3, 120)
    fitted = law[0] + law[1] * grid ** -law[2]
    axes.axhline(target, color=MUTED, linewidth=1, linestyle=DASHED)
    if needed:
        axes.axvspan(needed[1], min(needed[2], grid[-1]), color=ACCENT, alpha=0.13, linewidth=0)
        axes.axvline(needed[0], color=ACCENT, linewidth=1)
    for is_guessed, style in ((False, "-"), (True, DOTTED)):
        part = (grid > max(nums)) == is_guessed
        axes.plot(grid[part], fitted[part], color=ACCENT, linewidth=1.8, linestyle=style)
    axes.plot(nums, errors, color=INK, linewidth=0, marker="o", markersize=4.5, markeredgewidth=0)
    axes.set(xscale="log", xlabel="labelled training images", ylim=(0, 1.12 * max(*errors, target, fitted.max())))
    axes.xaxis.set_major_locator(LogLocator(subs=_steps(max(ends) / min(ends))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(_per_cent))
    return _themed(figure)


def heat_map(confusion: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix too large for numbers: a point for each cell, stronger for a larger share of its row."""
    counts = np.asarray(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.diag(shares.diagonal())
    # A single mistake among hundreds must still show, hence the root and the floor.
    wrong = np.where(counts > 0, np.maximum(0.35, np.sqrt(shares)), 0)
    np.fill_diagonal(wrong, 0)
    right, wrong = _pooled(right), _pooled(wrong)
    pixels = np.zeros((*right.shape, 4), dtype=np.uint8)
    pixels[..., :3] = np.where((right >= wrong)[..., None], RIGHT, WRONG)
    pixels[..., 3] = 255 * np.maximum(right, wrong)
    figure, axes = _figure(width=500, height=500, bottom=0.1, left=0.1)
    end = len(counts) - 0.5
    axes.imshow(pixels, interpolation="none", aspect="auto", extent=(-0.5, end, end, -0.5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="label")
    return _themed(figure)


def _pooled(strengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the strongest of each block, so that no side has more than MAX_PIXELS."""
    size = -(-len(strengths) // MAX_PIXELS)
    if size == 1:
        return strengths
    padded = np.pad(strengths, (0, -len(strengths) % size))
    side = len(padded) // size
    pooled: NDArray[np.float64] = padded.reshape(side, size, side, size).max(axis=(1, 3))
    return pooled


def _figure(
    *, width: int = WIDTH, height: int = HEIGHT, bottom: float = 0.19, left: float = 0.13
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    axes = figure.add_axes((left, bottom, 0.97 - left, 0.96 - bottom))
    _plain(axes)
    axes.grid(axis="y", color=LINE, linewidth=1)
    axes.set_axisbelow(True)
    return figure, axes


def _plain(axes: Axes) -> None:
    """Leave nothing but a base line: no box, no tick marks."""
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(length=0, labelsize=FONT_SIZE, labelcolor=MUTED, pad=5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(MUTED)
        axis.label.set_fontsize(FONT_SIZE)


def _per_cent(share: float, _position: int | None) -> str:
    return f"{round(100 * share, 6):g} %"


def _steps(ratio: float) -> tuple[int, ...]:
    """Give which multiples of ten's powers are named on an axis that spans `ratio`, so that they do not touch."""
    return (1, 2, 5) if ratio < 12 else (1, 3) if ratio < 500 else (1,)


def _themed(figure: Figure) -> str:
    """Give the figure as an <svg> whose colours and typeface are those of the page it is put in."""
    written = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with TURN, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "imagemill"}):
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'width="([\d.]+)pt" height="([\d.]+)pt"', r'class="plot" style="max-width: \1px"', text, count=1)
    for stand_in, name in COLOURS.items():
        text = text.replace(stand_in, f"var(--{name})")
    return _with_own_ids(re.sub(r"\s*\n\s*", " ", text))


def _with_own_ids(text: str) -> str:
    """Drop the ids nothing points to, and tell the others from those of the drawings beside it."""
    own = f"{zlib.crc32(text.encode()):08x}"
    used = set(re.findall(r"#([A-Za-z]\w+)", text))
    text = re.sub(r' id="([^"]*)"', lambda match: f' id="{match[1]}-{own}"' if match[1] in used else "", text)
    return re.sub(r"#([A-Za-z]\w+)", rf"#\1-{own}", text)
