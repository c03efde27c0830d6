"""Takes a lazy stream of tagged references, a way to read them and a way to shape them.

Gives full batches in order, fetched and decoded ahead by threads; a bad image becomes a `Failure` beside.
Knows nothing of networks, or of what a tag or a note means.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

import torch

from pipeline import references
from pipeline.errors import ItemError

#: items without pixels that wait for a batch at most; a long run of them is reported without one
MOST_ASIDE = 64
#: seconds that a batch is filled at most: what came before a server that drips is worth recording
PATIENCE_S = 5.0
#: seconds of work that a thread is handed at once: handing over costs some 50 us, more than a tiny image does
CHUNK_S = 0.004

T = TypeVar("T")
N = TypeVar("N")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why one item has no prediction."""

    #: "fetch" or "decode" here; "forward" or "load" later
    stage: str
    #: snake_case fact
    kind: str
    #: one sentence for a user
    message: str


@dataclass(frozen=True, slots=True)
class Shaped(Generic[N]):
    """What an item's bytes were made into."""

    #: uint8 [H, W, 3]; None where the note says all, and no forward pass is needed
    pixels: torch.Tensor | None
    #: kept for whoever takes the batch
    note: N


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[T, N]):
    """Images of one size, and the items before or between them that failed or need no forward pass."""

    #: one per image, in the order the items came
    tags: tuple[T, ...]
    #: one per image
    notes: tuple[N, ...]
    #: uint8 [len(tags), 3, H, W] in channels_last memory; None when there is no image
    images_NCHW: torch.Tensor | None  # noqa: N815
    failures: tuple[tuple[T, Failure], ...]
    #: items without pixels
    spared: tuple[tuple[T, N], ...]


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
    shape: Callable[[T, bytes], Shaped[N]],
    *,
    batch_size: int,
    pool: Executor,
    lookahead: int,
    spent: StageSeconds,
    per_host: int = 0,
) -> Iterator[Batch[T, N]]:
    """Yield batches of `batch_size` images, the last one short, reading `lookahead` images ahead.

    `read` gives a reference's bytes and `shape`, told the tag too, their pixels; an ItemError or MemoryError of either
    becomes a failure. Neither a failure nor what has no pixels counts towards the batch size. A batch that takes long
    to fill is yielded as it is. A None among the items flushes: what came before it is yielded before anything more is
    pulled. Any other error, a bug, ends the stream. At most `per_host` threads of the pool read from one host of
    https:// references at once (0: any number), so that one that is slow leaves some to the others.
    """
    ahead = _Ahead(iter(items), partial(_prepare, read=read, shape=shape, spent=spent), pool, per_host)
    forming = _Forming[T, N]()
    try:
        while ahead.fill(max(1, lookahead), chunk=_chunk(spent, batch_size)) or ahead.is_flushed:
            for tag, prepared in ahead.take():
                forming.add(tag, prepared)
                if len(forming.tags) == batch_size or forming.is_overdue:
                    yield forming.take()
                elif len(forming.failures) + len(forming.spared) >= MOST_ASIDE:
                    yield forming.take_aside()
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


class _Chunk(Generic[T, N]):
    """Items that one thread prepares, one after the other."""

    def __init__(self, items: list[tuple[T, str]]) -> None:
        self.items = items
        #: where they are read from, if there must not be too many at once
        self.host: str | None = None
        #: None until it is handed to a thread
        self.future: Future[list[Shaped[N] | Failure]] | None = None


class _Ahead(Generic[T, N]):
    """What threads are reading and decoding, in the order of the items."""

    def __init__(
        self,
        source: Iterator[tuple[T, str] | None],
        prepare: Callable[[Sequence[tuple[T, str]]], list[Shaped[N] | Failure]],
        pool: Executor,
        per_host: int,
    ) -> None:
        self._source = source
        self._prepare = prepare
        self._pool = pool
        self._per_host = per_host
        self._pending: deque[_Chunk[T, N]] = deque()
        self._num_pending = 0
        # Below: also touched by the pool's threads, as each ends a chunk.
        # Taken again within itself where a chunk has ended before its end is asked for.
        self._lock = threading.RLock()
        self._held_back: dict[str, deque[_Chunk[T, N]]] = {}
        self._num_reading: Counter[str] = Counter()
        self._is_over = False
        #: the source asked that nothing more be pulled until what is pending was taken
        self.is_flushed = False

    def fill(self, most: int, *, chunk: int) -> bool:
        """Hand out chunks until `most` items are on their way or there are no more; False once all were taken."""
        self.is_flushed = False
        while self._num_pending < most and not self.is_flushed:
            items = self._pull(min(chunk, most - self._num_pending))
            if items:
                self._pending.append(self._hand_out(_Chunk(items)))
                self._num_pending += len(items)
            elif not self.is_flushed:
                break
        return bool(self._pending)

    def take(self) -> Iterator[tuple[T, Shaped[N] | Failure]]:
        """Wait for the oldest chunk and give its items; for all of them, if the source asked for a flush."""
        for _ in range(len(self._pending) if self.is_flushed else 1):
            oldest = self._pending.popleft()
            self._num_pending -= len(oldest.items)
            for (tag, _), prepared in zip(oldest.items, self._made(oldest), strict=True):
                yield tag, prepared

    def _made(self, chunk: _Chunk[T, N]) -> list[Shaped[N] | Failure]:
        with self._lock:
            if chunk.future is None and chunk.host is not None:  # all wait for it, and so for those before it
                self._held_back[chunk.host].remove(chunk)
                self._submit(chunk)
            future = chunk.future
        if future is None:
            raise AssertionError("a chunk without a host is handed out at once")
        return future.result()

    def _hand_out(self, chunk: _Chunk[T, N]) -> _Chunk[T, N]:
        """Give a chunk to the pool, or hold it back until fewer threads read from its host."""
        host = references.host_of(chunk.items[-1][1]) if self._per_host else None  # none but the last is remote
        with self._lock:
            chunk.host = host
            if host is not None and self._num_reading[host] >= self._per_host:
                self._held_back.setdefault(host, deque()).append(chunk)
            else:
                self._submit(chunk)
        return chunk

    def _submit(self, chunk: _Chunk[T, N]) -> None:
        chunk.future = self._pool.submit(self._prepare, chunk.items)
        if chunk.host is not None:
            self._num_reading[chunk.host] += 1
            chunk.future.add_done_callback(partial(self._ended, chunk.host))

    def _ended(self, host: str, _: object) -> None:
        with self._lock:
            self._num_reading[host] -= 1
            if not self._is_over and self._held_back.get(host):
                self._submit(self._held_back[host].popleft())

    def _pull(self, most: int) -> list[tuple[T, str]]:
        items: list[tuple[T, str]] = []
        for item in islice(self._source, most):
            if item is None:
                self.is_flushed = True
                break
            items.append(item)
            if references.is_remote(item[1]):  # it may take seconds, which no other is to wait for in the same thread
                break
        return items

    def cancel(self) -> None:
        """Call off what no thread has begun."""
        with self._lock:
            self._is_over = True
            futures = [chunk.future for chunk in self._pending if chunk.future is not None]
        for future in futures:  # outside of the lock, which a cancelled one's callback takes
            future.cancel()


class _Forming(Generic[T, N]):
    """The batch that is being filled."""

    def __init__(self) -> None:
        self.tags: list[T] = []
        self.notes: list[N] = []
        self.images: list[torch.Tensor] = []
        self.failures: list[tuple[T, Failure]] = []
        self.spared: list[tuple[T, N]] = []
        self._began_s = 0.0

    @property
    def is_overdue(self) -> bool:
        return time.monotonic() >= self._began_s + PATIENCE_S

    @property
    def num_items(self) -> int:
        return len(self.tags) + len(self.failures) + len(self.spared)

    def add(self, tag: T, prepared: Shaped[N] | Failure) -> None:
        if not self.num_items:  # and not before: whoever took the last batch may have been busy with it
            self._began_s = time.monotonic()
        if isinstance(prepared, Failure):
            self.failures.append((tag, prepared))
        elif prepared.pixels is None:
            self.spared.append((tag, prepared.note))
        else:
            self.tags.append(tag)
            self.notes.append(prepared.note)
            self.images.append(prepared.pixels)

    def take_aside(self) -> Batch[T, N]:
        """Give what has no pixels alone: a long run of it must not pile up while an image waits for its batch."""
        batch = self._batch((), (), None)
        self.failures, self.spared = [], []
        return batch

    def take(self) -> Batch[T, N]:
        # Stacked as decoded: channels_last without another copy.
        images = torch.stack(self.images).permute(0, 3, 1, 2) if self.images else None
        batch = self._batch(tuple(self.tags), tuple(self.notes), images)
        self.__init__()  # type: ignore[misc]
        return batch

    def _batch(
        self,
        tags: tuple[T, ...],
        notes: tuple[N, ...],
        images_NCHW: torch.Tensor | None,  # noqa: N803
    ) -> Batch[T, N]:
        return Batch(
            tags=tags,
            notes=notes,
            images_NCHW=images_NCHW,
            failures=tuple(self.failures),
            spared=tuple(self.spared),
        )


def _prepare(
    items: Sequence[tuple[T, str]],
    *,
    read: Callable[[str], bytes],
    shape: Callable[[T, bytes], Shaped[N]],
    spent: StageSeconds,
) -> list[Shaped[N] | Failure]:
    return [_prepare_one(tag, reference, read, shape, spent) for tag, reference in items]


def _prepare_one(
    tag: T,
    reference: str,
    read: Callable[[str], bytes],
    shape: Callable[[T, bytes], Shaped[N]],
    spent: StageSeconds,
) -> Shaped[N] | Failure:
    started = fetched = time.perf_counter()
    stage = "fetch"
    try:
        data = read(reference)
        fetched, stage = time.perf_counter(), "decode"
        return shape(tag, data)
    except ItemError as error:
        return Failure(stage=error.stage, kind=error.kind, message=error.message)
    except MemoryError:
        return Failure(stage=stage, kind="out_of_memory", message="There was not enough memory for the image.")
    finally:
        ended = time.perf_counter()
        if stage == "fetch":
            fetched = ended
        spent.add(fetch=fetched - started, decode=ended - fetched)
