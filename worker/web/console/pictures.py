"""Takes a reference that the ledger holds. Gives a small JPEG of the image, or a drawing of what is wrong with it.

Knows nothing of who asks. An image is read as a worker reads it: under the same roots, with the same limits. What
reaches a browser was encoded here, so that no file of a stranger's making does.
"""

import asyncio
import functools
import html
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import Request

from pipeline import errors, images, references
from worker import readable
from worker.settings import Settings

#: pixels of the longer side: of a tile, of a picture that is looked at
SIDES = {"tile": 240, "large": 960}
#: of JPEG, 1 to 95
QUALITY = 82
#: threads that fetch and decode: an image may take some hundred megabytes while it is decoded
NUM_THREADS = 4
#: pictures that wait for a thread, at most
MOST_WAITING = 256
#: characters in a line of a drawn sentence, and lines
LINE, MOST_LINES = 26, 7

_DRAWN = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 240" width="240" height="240" font-family="sans-serif">
<rect width="240" height="240" fill="#80808022"/>
<path d="M96 40h48v36H96zM96 66l14-12 12 9 10-7 12 10" fill="none" stroke="#8a8f98" stroke-width="3"/>
<path d="M90 34l60 48" stroke="#c4553b" stroke-width="3"/>
<text fill="#7b828e" font-size="14" text-anchor="middle">{lines}</text>
</svg>
"""


class Busy(Exception):
    """Too many pictures are asked for at once; ask again in a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What a browser shows."""

    body: bytes
    kind: str
    #: the image could be shown, and this is no drawing of why not
    is_image: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Reads and shrinks images in a few threads of its own: a slow host keeps no other page waiting."""

    roots: references.Roots
    limits: images.Limits
    pool: ThreadPoolExecutor
    #: a place for each picture that is being made or waits
    places: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MOST_WAITING))

    async def show(self, find: Callable[[], str | None], side: int) -> Picture | None:
        """Give the picture whose reference is found; None where there is none. Raises `Busy` and what `find` raises."""
        if not self.places.acquire(blocking=False):
            raise Busy
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self.pool, functools.partial(self._show, find, side)
            )
        finally:
            self.places.release()

    def _show(self, find: Callable[[], str | None], side: int) -> Picture | None:
        reference = find()
        if reference is None:
            return None
        try:
            return Picture(body=self._jpeg(reference, side), kind="image/jpeg", is_image=True)
        except errors.ItemError as wrong:
            return drawn(wrong.message)

    def _jpeg(self, reference: str, side: int) -> bytes:
        data = references.fetch(reference, self.roots, max_bytes=self.limits.max_bytes)
        return images.thumbnail(data, self.limits, side, quality=QUALITY, least=side)


@contextmanager
def opened(settings: Settings) -> Iterator[Pictures]:
    """Give what shows images under the roots of these settings, as a worker has them."""
    with ThreadPoolExecutor(NUM_THREADS, "picture") as pool:
        yield Pictures(
            roots=readable.roots(settings),
            limits=readable.limits(settings),
            pool=pool,
        )


def of(request: Request) -> Pictures:
    """Give the app's pictures."""
    found: Pictures = request.app.state.pictures
    return found


def drawn(sentence: str) -> Picture:
    """Draw a sentence where an image should be."""
    lines = textwrap.wrap(sentence, LINE, max_lines=MOST_LINES, placeholder=" ...") or [""]
    spans = (f'<tspan x="120" y="{118 + 18 * row}">{html.escape(line)}</tspan>' for row, line in enumerate(lines))
    # XML has no place for control characters, however they are spelled.
    text = "".join(spans).translate(dict.fromkeys((*range(32), 0xFFFE, 0xFFFF), " "))
    return Picture(body=_DRAWN.format(lines=text).encode(errors="replace"), kind="image/svg+xml", is_image=False)
