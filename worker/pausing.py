"""Takes what is paused. Gives one sentence that says so: who, when, why, and how it goes on.

Knows nothing of the ledger, or of what a pause keeps waiting.
"""

import datetime
from collections.abc import Iterable

from db.models import EVERY_MODEL, Work
from db.pauses import Paused


def why(pauses: Iterable[Paused], work: Work) -> str:
    """Say that this work of a model is paused; empty if it is not. All models' pause is told first: it outlasts."""
    held = sorted((one for one in pauses if one.work == work), key=lambda one: one.model != EVERY_MODEL)
    return sentence(held[0]) if held else ""


def sentence(paused: Paused) -> str:
    """Say what is paused, and why. Without its running age: a tick's reason that changes would be a row for each."""
    of, name = ("every model", "--all") if paused.model == EVERY_MODEL else (f"model {paused.model!r}", paused.model)
    since = datetime.datetime.fromtimestamp(paused.at_s, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    what = "Learning" if paused.work == "learning" else f"{paused.work.capitalize()} work"
    reason = paused.reason.rstrip(". ")
    return f"{what} of {of} is paused by {paused.who} since {since}: {reason}. Resume with: imagemill resume {name}"
