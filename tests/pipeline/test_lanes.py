"""Work is done several at once and given in order; nothing that is done waits for what is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.serving.lanes import in_order


def test_several_are_worked_on_at_once_and_given_in_order() -> None:
    together = threading.Barrier(3)

    def do(number: int) -> int:
        together.wait(timeout=10)
        return number * number

    with ThreadPoolExecutor(3) as pool:
        assert list(in_order(range(9), do, pool=pool, ahead=3)) == [(number, number**2) for number in range(9)]


def test_no_more_is_begun_than_asked() -> None:
    pulled: list[int] = []

    def work() -> Iterator[int]:
        for number in range(20):
            pulled.append(number)
            yield number

    released = threading.Event()

    def do(number: int) -> int:
        assert released.wait(timeout=10)
        return number

    with ThreadPoolExecutor(2) as pool:
        stream = in_order(work(), do, pool=pool, ahead=4)
        threading.Timer(0.05, released.set).start()
        next(stream)
        assert len(pulled) <= 5


def test_what_was_begun_is_given_before_an_error_of_the_source() -> None:
    def work() -> Iterator[int]:
        yield from range(3)
        raise ZeroDivisionError

    with ThreadPoolExecutor(1) as pool:
        stream = in_order(work(), str, pool=pool, ahead=5)
        assert [next(stream) for _ in range(3)] == [(0, "0"), (1, "1"), (2, "2")]
        with pytest.raises(ZeroDivisionError):
            next(stream)


def test_an_error_ends_the_stream_and_calls_off_what_waits() -> None:
    done: list[int] = []
    seen = threading.Event()

    def do(number: int) -> None:
        if number == 0:
            raise ZeroDivisionError
        assert seen.wait(timeout=10)
        done.append(number)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError):
            next(in_order(range(5), do, pool=pool, ahead=4))
        seen.set()
    assert done in ([], [1]), "only what had begun"
