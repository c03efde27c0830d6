"""Takes a run report, or a comparison of two versions, and what was worked out from it.

Gives the page as text, every piece of it escaped but the drawings we made.
Knows nothing of how either came about.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from pipeline.learning.pages import wording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.learning.comparison import Comparison
    from pipeline.learning.pages.page import Page
    from pipeline.learning.report import RunReport

#: rows and columns of the playbook's table: the planner's word, and how the page says it
AMOUNTS = (("plentiful", "plentiful data"), ("grey", "between"), ("scarce", "scarce data"))
LIKENESSES = (("similar", "similar"), ("grey", "between"), ("dissimilar", "dissimilar"))
#: what the playbook does in each cell (science 2.2)
ACTIONS = {
    ("plentiful", "similar"): "The head; last stage tried",
    ("plentiful", "grey"): "All layers; head as floor",
    ("plentiful", "dissimilar"): "All layers; head as floor",
    ("grey", "similar"): "Head against all layers",
    ("grey", "grey"): "All layers; head as floor",
    ("grey", "dissimilar"): "All layers; head as floor",
    ("scarce", "similar"): "The head only",
    ("scarce", "grey"): "All layers; head as floor",
    ("scarce", "dissimilar"): "Not recommended",
}
#: the gate's checks, as their owner would call them
CHECKS = {
    "integrity": "Same test",
    "non_inferiority": "No worse overall",
    "classes": "No class worse",
    "nll": "Scores as honest",
    "latency": "As fast",
    "reason": "Reason to swap",
    "majority": "Better than guessing",
}
#: characters of a name in running text, and of a reference below its picture (two lines)
MAX_NAME, MAX_REFERENCE = 60, 34
#: classes listed in one table; a page of ten thousand helps nobody
MAX_ROWS = 400


def fill(report: RunReport, page: Page) -> str:
    """Fill the template."""
    template = _environment().get_template("report.html.jinja")
    tables = {"amounts": AMOUNTS, "likenesses": LIKENESSES, "actions": ACTIONS, "checks": CHECKS, "max_rows": MAX_ROWS}
    return template.render(report=report, page=page, **tables)


def fill_comparison(comparison: Comparison, uris: Sequence[str], *, max_rows: int) -> str:
    """Fill the template about two versions; `uris` are the pictures of what differs."""
    template = _environment().get_template("comparison.html.jinja")
    return template.render(comparison=comparison, uris=uris, max_rows=max_rows)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (
        wording.share, wording.points, wording.number, wording.change, wording.count, wording.took, wording.when,
        wording.spoken, wording.sentence,
    ):  # fmt: skip
        environment.filters[word.__name__] = word
    environment.filters.update(short=_short, tail=_tail, percent=_percent, place=_place, is_code=_is_code)
    return environment


def _printed(value: object) -> object:
    """Give what may stand on the page: a stranger's text cut and cleaned, everything else as it is."""
    return wording.readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _short(name: str, limit: int = MAX_NAME) -> str:
    return wording.readable(name, limit).strip() or "(blank)"


def _tail(reference: str, limit: int = MAX_REFERENCE) -> str:
    """Keep the end, where the file's name is."""
    return reference if len(reference) <= limit else "…" + reference[-limit:]


def _percent(share: float) -> str:
    return _place(100 * share)


def _place(percent: float) -> str:
    return f"{min(100.0, max(0.0, percent)):.2f}%"


def _is_code(value: str) -> bool:
    """Tell digests from words."""
    return re.fullmatch(r"(sha256:)?[0-9a-f]{12,64}", value) is not None
