"""Takes numbers and the text of strangers.

Gives them as a person reads them on a page: shares, changes, times, and lines that keep their place.
Knows nothing of what they stand for.
"""

from __future__ import annotations

import math
import time
import unicodedata

#: stands for what is not known
NOTHING = "–"
#: keeps a number and its unit on one line
SPACE = "\u00a0"
#: characters of one text that a page shows; a longer one is cut
MAX_TEXT = 400
#: words that are spelt in capitals
INITIALS = frozenset({"bce", "ece", "ema", "nll", "sha256"})
#: Unicode categories: control (line ends), format (zero width, right-to-left overrides), lone surrogates, separators
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def share(value: float | None, digits: int = 1) -> str:
    """Give 0..1 in per cent; a whole one without decimals, and never rounded to it from below."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value in {0, 1}:
        return f"{value * 100:.0f}{SPACE}%"
    limit = 100 - 10.0**-digits
    return f"{min(100 * value, limit):.{digits}f}{SPACE}%"


def points(value: float | None, digits: int = 1) -> str:
    """Give a difference of two shares in points, with its sign."""
    return NOTHING if value is None or not math.isfinite(value) else _signed(100 * value, digits)


def number(value: float | None, digits: int = 3) -> str:
    """Give a plain number."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def change(value: float | None, digits: int = 3) -> str:
    """Give the difference of two plain numbers, with its sign."""
    return NOTHING if value is None or not math.isfinite(value) else _signed(value, digits)


def count(value: float | None) -> str:
    """Give a count with its thousands apart."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:,.0f}"


def about(value: float) -> str:
    """Give a rough count, to two digits."""
    if not math.isfinite(value):
        return "any number"
    size = 10 ** max(0, math.floor(math.log10(max(1.0, abs(value)))) - 1)
    return count(round(value / size) * size)


def took(seconds: float | None) -> str:
    """Give a duration as a person would say it."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 1:
        return f"{1000 * seconds:.{1 if seconds < 0.1 else 0}f}{SPACE}ms"
    if seconds < 60:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def when(at_s: float | None) -> str:
    """Give a moment in UTC, for the page may be read anywhere."""
    return NOTHING if at_s is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at_s))


def spoken(name: str) -> str:
    """Give a snake_case name as words."""
    words = " ".join(word.upper() if word in INITIALS else word for word in name.replace("_", " ").split())
    return words[:1].upper() + words[1:]


def sentence(text: str) -> str:
    """End a text with a full stop, unless there is nothing to end."""
    text = text.rstrip()
    return text if not text or text.endswith((".", "!", "?", "…")) else f"{text}."


def readable(text: str, limit: int = MAX_TEXT) -> str:
    """Cut a long text in the middle, and blank what would move or hide the text around it."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} … {text[-(limit // 2) :]}"
    return "".join(" " if unicodedata.category(character) in UNSEEN else character for character in text)


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else "−") + text
