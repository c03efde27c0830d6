"""What strangers send: valid things that were damaged a little, which get further than noise does."""

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

#: texts that something along the way tends to trip over
NASTY = (
    "", " ", "\0", "\ud800", "a\udfffb", "é", "\u2028", "\r\n", "'\"`", "[red]", "../..", "file://", "s3://",
    "x" * 5000, "NaN", "1" * 400, "%00", "%ff", "-1", "1e999", "null", "=cmd()", "://", "::", "{", "\ufeff",
    "٣", "\x1b[31m",
)  # fmt: skip
#: deeper than anything that is documented; what is as deep as can be read at all is for tests of its own
DEEP = "[" * 40 + "]" * 40

texts = st.sampled_from(NASTY) | st.text(max_size=20)
numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30, 1e308])
flat = st.none() | st.booleans() | numbers | texts
json_values = st.recursive(
    flat, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
) | st.builds(json.loads, st.just(DEEP))


@st.composite
def damaged(draw: Any, valid: Any, others: st.SearchStrategy[Any] = json_values) -> Any:
    """Change a JSON value in one to three places: replace, drop, add or repeat something."""
    whole = [copy.deepcopy(draw(valid) if isinstance(valid, st.SearchStrategy) else valid)]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(whole))
        holder, where = places[draw(st.integers(0, len(places) - 1))]
        _change(draw, holder, where, others)
    return whole[0] if whole else None


def _places(holder: Any, depth: int = 0) -> Any:
    entries = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for where, inner in list(entries):
        yield holder, where
        if isinstance(inner, dict | list) and depth < 6:
            yield from _places(inner, depth + 1)


def _change(draw: Any, holder: Any, where: Any, others: st.SearchStrategy[Any]) -> None:
    how = draw(st.sampled_from(["replace", "replace", "drop", "add", "wrap"]))
    if how == "drop" and len(holder) > 1:
        del holder[where]
    elif how == "add" and isinstance(holder, dict):
        holder[draw(texts)] = draw(others)
    elif how == "wrap":
        holder[where] = [holder[where]]
    else:
        holder[where] = draw(others)


@st.composite
def damaged_bytes(draw: Any, valid: st.SearchStrategy[bytes], *, edits: int = 6) -> bytes:
    """Overwrite, insert, cut out, repeat or cut off a few stretches of bytes."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, edits))):
        start = draw(st.integers(0, len(data)))
        # Headers come first and decide the most.
        start = start if draw(st.booleans()) else min(start, draw(st.integers(0, 64)))
        draw(st.sampled_from(EDITS))(draw, data, start)
    return bytes(data)


def _overwrite(draw: Any, data: bytearray, start: int) -> None:
    put = draw(st.binary(min_size=1, max_size=4) | st.sampled_from(EXTREMES))
    data[start : start + len(put)] = put


def _insert(draw: Any, data: bytearray, start: int) -> None:
    data[start:start] = draw(st.binary(min_size=1, max_size=8) | st.sampled_from(EXTREMES))


def _cut_out(draw: Any, data: bytearray, start: int) -> None:
    del data[start : start + draw(st.integers(1, 40))]


def _repeat(draw: Any, data: bytearray, start: int) -> None:
    data[start:start] = data[start : start + draw(st.integers(1, 60))]


def _cut_off(_: Any, data: bytearray, start: int) -> None:
    del data[start:]


def _swap(draw: Any, data: bytearray, start: int) -> None:
    if data:
        data[start % len(data)] ^= 1 << draw(st.integers(0, 7))


EXTREMES = (
    b"\0",
    b"\xff",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xd8",
    b"\xff\xda",
)
EDITS: tuple[Callable[[Any, bytearray, int], None], ...] = (
    _overwrite, _overwrite, _swap, _insert, _cut_out, _repeat, _cut_off,
)  # fmt: skip


@st.composite
def damaged_text(draw: Any, valid: st.SearchStrategy[str]) -> bytes:
    """Damage a text file: a few of its characters or stretches, or its bytes."""
    text = draw(valid)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.integers(0, 12))
        put = draw(texts | st.sampled_from(["\n", ",", '"', "[", "]", "{", "}", "=", "\t", "[" * 3000, "9" * 5000]))
        text = text[:start] + put + text[end:]
    data = text.encode(errors="surrogatepass")
    return draw(damaged_bytes(st.just(data), edits=2)) if draw(st.integers(0, 3)) == 0 else data
