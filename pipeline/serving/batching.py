"""Takes a lazy stream of tagged references, a way to read them and a way to shape them.

Gives full batches in order, fetched and decoded ahead by threads; a bad image becomes a `Failure` beside.
Knows nothing of networks, or of what a tag means.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

import torch

from pipeline.errors import ItemError

#: failures that wait for a batch at most; a long run of them is reported without one
MOST_FAILURES = 64
#: seconds of work that a thread is handed at once: handing over costs some 50 us, more than a tiny image does
CHUNK_S = 0.004

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why one item has no prediction."""

    #: "fetch" or "decode" here; "forward" or "load" later
    stage: str
    #: snake_case fact
    kind: str
    #: one sentence for a user
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[T]):
    """Images of one size, and the items before or between them that failed."""

    #: one per image, in the order the items came
    tags: tuple[T, ...]
    #: uint8 [len(tags), 3, H, W] in channels_last memory; None when there is no image, only failures
    images_NCHW: torch.Tensor | None  # noqa: N815
    failures: tuple[tuple[T, Failure], ...]


@dataclass(slots=True, kw_only=True)
class StageSeconds:
    """Seconds that threads spent per stage, summed over all of them."""

    fetch: float = 0.0
    decode: float = 0.0
    num_items: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def per_item(self) -> float:
        """Seconds per item so far; 0.0 before the first."""
        return (self.fetch + self.decode) / self.num_items if self.num_items else 0.0

    def add(self, *, fetch: float = 0.0, decode: float = 0.0) -> None:
        """Add an item's seconds; safe from any thread."""
        with self._lock:
            self.fetch += fetch
            self.decode += decode
            self.num_items += 1


def batches(
    items: Iterable[tuple[T, str] | None],
    read: Callable[[str], bytes],
    shape: Callable[[bytes], torch.Tensor],
    *,
    batch_size: int,
    pool: Executor,
    lookahead: int,
    spent: StageSeconds,
) -> Iterator[Batch[T]]:
    """Yield batches of `batch_size` images, the last one short, reading `lookahead` images ahead.

    `read` gives a reference's bytes and `shape` their uint8 [H, W, 3]; an ItemError or MemoryError of either
    becomes a failure, which never counts towards the batch size. A None among the items flushes: what came
    before it is yielded before anything more is pulled. Any other error is a bug and ends the stream.
    """
    ahead = _Ahead(iter(items), partial(_prepare, read=read, shape=shape, spent=spent), pool)
    forming = _Forming[T]()
    try:
        while ahead.fill(max(1, lookahead), chunk=_chunk(spent, batch_size)) or ahead.is_flushed:
            for tag, prepared in ahead.take():
                forming.add(tag, prepared)
                if len(forming.tags) == batch_size:
                    yield forming.take()
                elif len(forming.failures) == MOST_FAILURES:
                    yield forming.take_failures()
            if ahead.is_flushed and forming.num_items:
                yield forming.take()
        if forming.num_items:
            yield forming.take()
    finally:
        ahead.cancel()


def _chunk(spent: StageSeconds, batch_size: int) -> int:
    """Give how many items a thread is handed at once: one at first, and more the quicker they turn out to be."""
    most = max(1, batch_size // 4)
    return min(most, max(1, int(CHUNK_S / spent.per_item))) if spent.per_item else 1


class _Ahead(Generic[T]):
    """What threads are reading and decoding, in the order of the items."""

    def __init__(
        self,
        source: Iterator[tuple[T, str] | None],
        prepare: Callable[[Sequence[str]], list[torch.Tensor | Failure]],
        pool: Executor,
    ) -> None:
        self._source = source
        self._prepare = prepare
        self._pool = pool
        self._pending: deque[tuple[tuple[T, ...], Future[list[torch.Tensor | Failure]]]] = deque()
        self._num_pending = 0
        #: the source asked that nothing more be pulled until what is pending was taken
        self.is_flushed = False

    def fill(self, most: int, *, chunk: int) -> bool:
        """Hand out chunks until `most` items are on their way or there are no more; False once all were taken."""
        self.is_flushed = False
        while self._num_pending < most and not self.is_flushed:
            items = self._pull(min(chunk, most - self._num_pending))
            if items:
                tags, references = zip(*items, strict=True)
                self._pending.append((tags, self._pool.submit(self._prepare, references)))
                self._num_pending += len(items)
            elif not self.is_flushed:
                break
        return bool(self._pending)

    def take(self) -> Iterator[tuple[T, torch.Tensor | Failure]]:
        """Wait for the oldest chunk and give its items; for all of them, if the source asked for a flush."""
        for _ in range(len(self._pending) if self.is_flushed else 1):
            tags, future = self._pending.popleft()
            self._num_pending -= len(tags)
            yield from zip(tags, future.result(), strict=True)

    def _pull(self, most: int) -> list[tuple[T, str]]:
        items: list[tuple[T, str]] = []
        for item in islice(self._source, most):
            if item is None:
                self.is_flushed = True
                break
            items.append(item)
        return items

    def cancel(self) -> None:
        """Call off what no thread has begun."""
        for _, future in self._pending:
            future.cancel()


class _Forming(Generic[T]):
    """The batch that is being filled."""

    def __init__(self) -> None:
        self.tags: list[T] = []
        self.images: list[torch.Tensor] = []
        self.failures: list[tuple[T, Failure]] = []

    @property
    def num_items(self) -> int:
        return len(self.tags) + len(self.failures)

    def add(self, tag: T, prepared: torch.Tensor | Failure) -> None:
        if isinstance(prepared, Failure):
            self.failures.append((tag, prepared))
        else:
            self.tags.append(tag)
            self.images.append(prepared)

    def take_failures(self) -> Batch[T]:
        """Give the failures alone: a long run of them must not pile up while an image waits for its batch."""
        batch = Batch(tags=(), images_NCHW=None, failures=tuple(self.failures))
        self.failures = []
        return batch

    def take(self) -> Batch[T]:
        # Stacked as decoded: channels_last without another copy.
        images = torch.stack(self.images).permute(0, 3, 1, 2) if self.images else None
        batch = Batch(tags=tuple(self.tags), images_NCHW=images, failures=tuple(self.failures))
        self.__init__()  # type: ignore[misc]
        return batch


def _prepare(
    references: Sequence[str],
    *,
    read: Callable[[str], bytes],
    shape: Callable[[bytes], torch.Tensor],
    spent: StageSeconds,
) -> list[torch.Tensor | Failure]:
    return [_prepare_one(reference, read, shape, spent) for reference in references]


def _prepare_one(
    reference: str,
    read: Callable[[str], bytes],
    shape: Callable[[bytes], torch.Tensor],
    spent: StageSeconds,
) -> torch.Tensor | Failure:
    started = fetched = time.perf_counter()
    stage = "fetch"
    try:
        data = read(reference)
        fetched, stage = time.perf_counter(), "decode"
        return shape(data)
    except ItemError as error:
        return Failure(stage=error.stage, kind=error.kind, message=error.message)
    except MemoryError:
        return Failure(stage=stage, kind="out_of_memory", message="There was not enough memory for the image.")
    finally:
        ended = time.perf_counter()
        if stage == "fetch":
            fetched = ended
        spent.add(fetch=fetched - started, decode=ended - fetched)
