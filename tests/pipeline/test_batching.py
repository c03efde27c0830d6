"""Batches are full, in order, read ahead no further than asked; a bad image costs nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pipeline.errors import ImageUnreadable, ItemUnfetchable
from pipeline.serving import batching
from pipeline.serving.batching import MOST_ASIDE, Batch, Shaped, StageSeconds, batches

Item = tuple[int, str] | None


def read(reference: str) -> bytes:
    if reference == "gone":
        raise ItemUnfetchable("missing", "There is no such file.")
    return reference.encode()


def shape(tag: int, data: bytes) -> Shaped[str]:
    if data == b"bad":
        raise ImageUnreadable("truncated", "The image file is cut off.")
    if data == b"huge":
        raise MemoryError
    if data == b"bug":
        raise ZeroDivisionError
    if data == b"known":
        return Shaped(None, f"{tag} is known")
    return Shaped(torch.full((2, 2, 3), int(data), dtype=torch.uint8), f"{tag} is new")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def run(
    items: Iterable[Item], pool: ThreadPoolExecutor, *, batch_size: int = 3, lookahead: int = 5
) -> Iterator[Batch[int, str]]:
    return batches(items, read, shape, batch_size=batch_size, pool=pool, lookahead=lookahead, spent=StageSeconds())


def good(*numbers: int) -> list[Item]:
    return [(number, str(number)) for number in numbers]


def shown(batch: Batch[int, str]) -> tuple[tuple[int, ...], tuple[tuple[int, str], ...]]:
    return batch.tags, tuple((tag, failure.kind) for tag, failure in batch.failures)


@pytest.mark.parametrize("lookahead", [1, 2, 3, 100])
def test_batches_are_full_and_in_order_and_the_last_is_short(pool: ThreadPoolExecutor, lookahead: int) -> None:
    given = list(run(good(*range(8)), pool, lookahead=lookahead))
    assert [batch.tags for batch in given] == [(0, 1, 2), (3, 4, 5), (6, 7)]
    for batch in given:
        assert batch.images_NCHW is not None
        assert batch.images_NCHW.shape == (len(batch.tags), 3, 2, 2)
        assert batch.images_NCHW.is_contiguous(memory_format=torch.channels_last)
        assert batch.images_NCHW[:, 0, 0, 0].tolist() == list(batch.tags)


def test_a_bad_image_is_a_failure_beside_a_full_batch(pool: ThreadPoolExecutor) -> None:
    items = [*good(0), (1, "bad"), *good(2), (3, "gone"), (4, "huge"), *good(5, 6), (7, "bad")]
    assert [shown(batch) for batch in run(items, pool)] == [
        ((0, 2, 5), ((1, "truncated"), (3, "missing"), (4, "out_of_memory"))),
        ((6,), ((7, "truncated"),)),
    ]


def test_what_needs_no_forward_pass_goes_beside_and_every_image_keeps_its_note(pool: ThreadPoolExecutor) -> None:
    items = [(0, "known"), *good(1, 2), (3, "known"), *good(4, 5), (6, "known")]
    given = [(batch.tags, batch.notes, batch.spared) for batch in run(items, pool)]
    assert given == [
        ((1, 2, 4), ("1 is new", "2 is new", "4 is new"), ((0, "0 is known"), (3, "3 is known"))),
        ((5,), ("5 is new",), ((6, "6 is known"),)),
    ]


def test_a_long_run_of_what_has_no_pixels_does_not_wait_for_an_image(pool: ThreadPoolExecutor) -> None:
    items = [(number, ("known", "bad")[number % 2]) for number in range(MOST_ASIDE)]
    first = next(run([*items, *good(99)], pool))
    assert (len(first.spared) + len(first.failures), first.images_NCHW) == (MOST_ASIDE, None)


def test_failures_name_the_stage_they_happened_in(pool: ThreadPoolExecutor) -> None:
    (batch,) = run([(0, "gone"), (1, "bad"), (2, "huge")], pool)
    assert batch.images_NCHW is None
    assert [(failure.stage, failure.message[-1]) for _, failure in batch.failures] == [
        ("fetch", "."), ("decode", "."), ("decode", "."),
    ]  # fmt: skip


def test_no_items_give_no_batches(pool: ThreadPoolExecutor) -> None:
    assert list(run([], pool)) == []
    assert list(run([None, None], pool)) == []


def test_a_flush_mark_yields_what_is_there_before_more_is_pulled(pool: ThreadPoolExecutor) -> None:
    pulled: list[int] = []

    def items() -> Iterator[Item]:
        for number in (0, 1, None, 2, None, None, 3, 4, 5, None, 6):
            if number is not None:
                pulled.append(number)
            yield None if number is None else (number, str(number))

    stream = run(items(), pool, lookahead=100)
    seen = [(batch.tags, len(pulled)) for batch in stream]
    assert seen == [((0, 1), 2), ((2,), 3), ((3, 4, 5), 6), ((6,), 7)]


def test_no_more_is_pulled_than_the_lookahead_allows(pool: ThreadPoolExecutor) -> None:
    pulled = 0

    def items() -> Iterator[Item]:
        nonlocal pulled
        for number in range(100):
            pulled += 1
            yield number, str(number)

    stream = run(items(), pool, batch_size=4, lookahead=10)
    for turn, _ in zip(range(1, 20), stream, strict=False):
        assert pulled <= turn * 4 + 10


def test_images_are_prepared_while_the_caller_is_busy(pool: ThreadPoolExecutor) -> None:
    ready = threading.Semaphore(0)

    def counted(tag: int, data: bytes) -> Shaped[str]:
        ready.release()
        return shape(tag, data)

    stream = batches(good(*range(12)), read, counted, batch_size=3, pool=pool, lookahead=6, spent=StageSeconds())
    next(stream)
    # 3 were taken, and 5 more wait at the least: the sixth is pulled with the next take.
    assert all(ready.acquire(timeout=10) for _ in range(8))


def test_what_lies_on_other_machines_is_not_queued_behind_each_other(pool: ThreadPoolExecutor) -> None:
    together = threading.Barrier(4)

    def distant(reference: str) -> bytes:
        together.wait(timeout=10)
        return reference.rpartition("/")[2].encode()

    quick = StageSeconds(fetch=0.001, num_items=1000)  # so far: a thread would be handed several at once
    items = [(number, f"https://images.example.org/{number}") for number in range(16)]
    given = list(batches(items, distant, shape, batch_size=16, pool=pool, lookahead=16, spent=quick))
    assert [batch.tags for batch in given] == [tuple(range(16))]


def test_a_batch_that_takes_long_to_fill_is_given_as_it_is(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "PATIENCE_S", 0.2)

    def slow(reference: str) -> bytes:
        if reference == "2":
            time.sleep(0.4)
        return read(reference)

    stream = batches(good(*range(6)), slow, shape, batch_size=6, pool=pool, lookahead=6, spent=StageSeconds())
    assert [batch.tags for batch in stream] == [(0, 1, 2), (3, 4, 5)]


def test_a_batch_is_full_however_long_the_one_before_it_took_to_be_classified(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "PATIENCE_S", 0.2)
    taken = []
    for batch in run(good(*range(6)), pool, batch_size=3):
        taken.append(batch.tags)
        time.sleep(0.4)
    assert taken == [(0, 1, 2), (3, 4, 5)]


def test_a_bug_ends_the_stream_and_cancels_what_waits() -> None:
    read_after = threading.Event()
    held = threading.Event()

    def slow(reference: str) -> bytes:
        if reference == "late":
            read_after.set()
        if reference == "hold":
            assert held.wait(timeout=10)
        return b"bug" if reference in ("bug", "hold") else read(reference)

    with ThreadPoolExecutor(1) as pool:
        items = [(0, "bug"), (1, "hold"), (2, "late"), (3, "late")]
        stream = batches(items, slow, shape, batch_size=2, pool=pool, lookahead=4, spent=StageSeconds())
        with pytest.raises(ZeroDivisionError):
            next(stream)
        held.set()
    assert not read_after.is_set()


def test_an_abandoned_stream_cancels_what_waits() -> None:
    with ThreadPoolExecutor(1) as pool:
        stream = run(good(*range(50)), pool, batch_size=1, lookahead=50)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []


def test_seconds_are_summed_over_threads(pool: ThreadPoolExecutor) -> None:
    spent = StageSeconds()
    list(pool.map(lambda _: [spent.add(fetch=1, decode=2) for _ in range(1000)], range(8)))
    assert (spent.fetch, spent.decode) == (8000, 16000)
