"""Takes a stream of work and a pool. Gives the results in order, several pieces being worked on at once.

Knows nothing of what the work is. On a CPU one forward pass per core beats one that all cores share: nobody waits at a
barrier after each operation; on a GPU the next batch is on its way while the results of the last are fetched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")


def in_order(work: Iterable[T], do: Callable[[T], Result], *, pool: Executor, ahead: int) -> Iterator[tuple[T, Result]]:
    """Yield each piece of work with what `do` made of it, in order, with at most `ahead` more begun.

    What is done already is given before more is pulled. Where `work` raises, what was begun is given before the error;
    an error of `do` ends the stream at once, and calls off what waits.
    """
    begun: deque[tuple[T, Future[Result]]] = deque()
    pieces, broken = iter(work), None
    try:
        while broken is None:
            try:
                piece = next(pieces)
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001 - raised again below, when what was begun has been given
                broken = error
            else:
                begun.append((piece, pool.submit(do, piece)))
                while begun and (len(begun) > ahead or begun[0][1].done()):
                    yield _oldest(begun)
        while begun:
            yield _oldest(begun)
        if broken is not None:
            raise broken
    finally:
        for _, future in begun:
            future.cancel()


def _oldest(begun: deque[tuple[T, Future[Result]]]) -> tuple[T, Result]:
    piece, future = begun.popleft()
    return piece, future.result()
