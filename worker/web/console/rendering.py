"""Takes a template's name and plain values. Gives a page: every text of a stranger's escaped, and no script but ours.

Knows nothing of where the values come from.
"""

import functools
import hashlib
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlencode

import jinja2
from markupsafe import Markup
from starlette.responses import HTMLResponse

from pipeline.learning.pages import template as reports
from pipeline.learning.pages import wording
from worker.web.callers import Caller

HERE = Path(__file__).parent
#: where the console's pages lie
ROOT = "/console"
#: no script, style or picture but the server's own; nothing frames a page but the console itself
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: what a state, a verdict or a decision feels like
TONES = {
    "succeeded": "good", "promote": "good", "ready": "good", "passed": "good",
    "partial": "warn", "hold": "warn", "underpowered": "warn", "not_recommended": "warn", "rolled_back": "warn",
    "failed": "bad", "reject": "bad", "setup_failed": "bad", "expired": "bad",
    "running": "busy", "busy": "busy", "receiving": "busy", "accepted": "busy", "watching": "busy",
}  # fmt: skip


#: how much of a network a run trains, in words
STRATEGIES = {"head": "the head", "last_stage": "the last stage", "all": "all layers"}
#: measures whose names say little by themselves
MEASURES = {
    "num_test": "Test images",
    "macro_f1": "Macro F1",
    "brier": "Brier score",
    "abstain_below": "Abstains below",
}


def page(
    name: str, visitor: Caller | None, *, status: int = HTTPStatus.OK, **values: object
) -> HTMLResponse:  # fmt: skip
    """Fill a template for a visitor."""
    text = _environment().get_template(name).render(visitor=visitor, **values)
    # A name may hold half a character, which no encoding has.
    return HTMLResponse(text.encode(errors="replace").decode(), status_code=status, headers=HEADERS)


def link(*parts: object, **query: object) -> str:
    """Spell a link within the console; what is None or empty is left out of its query."""
    where = "/".join((ROOT, *(quote(str(part), safe="") for part in parts)))
    given = {name.rstrip("_"): value for name, value in query.items() if value not in (None, "")}
    return f"{where}?{urlencode(given)}" if given else where


@functools.cache
def static_digest() -> str:
    """Name what the static files are now, so that a browser keeps them until they change."""
    files = sorted((HERE / "static").iterdir())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (
        wording.share, wording.number, wording.count, wording.took, wording.when, wording.spoken, wording.sentence,
    ):  # fmt: skip
        environment.filters[word.__name__] = word
    environment.filters.update(ago=_ago, iso=_iso, tail=_tail, last_name=_last_name, readable=wording.readable)
    environment.globals.update(
        root=ROOT,
        link=link,
        digest=static_digest(),
        state=_state,
        checks=reports.CHECKS,
        strategies=STRATEGIES,
        measures=MEASURES,
    )
    return environment


def _printed(value: object) -> object:
    """Give what may stand on a page: a stranger's text cut and cleaned, everything else as it is."""
    return wording.readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _tone(word: object) -> str:
    return TONES.get(str(word), "calm")


def _state(word: object) -> Markup:
    """Draw a state, a verdict or a decision as a badge."""
    return Markup('<span class="badge {}">{}</span>').format(_tone(word), str(word).replace("_", " "))


def _ago(at_s: float | None) -> str:
    """Say how long ago something was; clocks of two machines differ a little."""
    if at_s is None:
        return wording.NOTHING
    seconds = max(0.0, time.time() - at_s)
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        if seconds >= size:
            num = int(seconds // size)
            return f"{num} {unit}{'s' if num > 1 else ''} ago"
    return "just now"


def _iso(at_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))


def _last_name(reference: str) -> str:
    """Give the file's own name."""
    return _tail(reference.rstrip("/").rpartition("/")[2] or reference, 24)


def _tail(reference: str, limit: int = 40) -> str:
    """Keep the end, where the file's name is."""
    return reference if len(reference) <= limit else "…" + reference[-limit:]
