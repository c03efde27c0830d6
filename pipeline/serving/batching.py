"""Takes a lazy stream of tagged references, a way to read them and a way to shape them.

Gives full batches in order, fetched and decoded ahead by threads; a bad image becomes a `Failure` beside.
Knows nothing of networks, or of what a tag means.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from pipeline.errors import ItemError

#: failures that wait for a batch at most; a long run of them is reported without one
MOST_FAILURES = 64

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
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, fetch: float = 0.0, decode: float = 0.0) -> None:
        """Add seconds; safe from any thread."""
        with self._lock:
            self.fetch += fetch
            self.decode += decode


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

    `read` gives a reference's bytes and `shape` their uint8 [3, H, W]; an ItemError or MemoryError of either
    becomes a failure, which never counts towards the batch size. A None among the items flushes: what came
    before it is yielded before anything more is pulled. Any other error is a bug and ends the stream.
    """
    source = iter(items)
    pending: deque[tuple[T, Future[torch.Tensor | Failure]]] = deque()
    forming = _Forming[T]()
    try:
        pausing = ended = False
        while not ended:
            while len(pending) < max(1, lookahead) and not (pausing or ended):
                try:
                    item = next(source)
                except StopIteration:
                    ended = True
                else:
                    pausing = item is None
                    if item is not None:
                        pending.append((item[0], pool.submit(_prepare, item[1], read, shape, spent)))
            for _ in range(len(pending) if pausing or ended else 1):
                tag, future = pending.popleft()
                forming.add(tag, future.result())
                if len(forming.tags) == batch_size:
                    yield forming.take()
                elif len(forming.failures) == MOST_FAILURES:
                    yield forming.take_failures()
            if (pausing or ended) and forming.num_items:
                yield forming.take()
            pausing = False
    finally:
        for _, future in pending:
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
            self.images.append(prepared.permute(1, 2, 0))

    def take_failures(self) -> Batch[T]:
        """Give the failures alone: a long run of them must not pile up while an image waits for its batch."""
        batch = Batch(tags=(), images_NCHW=None, failures=tuple(self.failures))
        self.failures = []
        return batch

    def take(self) -> Batch[T]:
        # Stacked in HWC order, as decoded: channels_last without another copy.
        images = torch.stack(self.images).permute(0, 3, 1, 2) if self.images else None
        batch = Batch(tags=tuple(self.tags), images_NCHW=images, failures=tuple(self.failures))
        self.__init__()  # type: ignore[misc]
        return batch


def _prepare(
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
