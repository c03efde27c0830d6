"""Labelled images are read in order, ahead; one that is gone or changed is said, and costs its neighbours nothing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline import images
from pipeline.errors import ItemUnfetchable
from pipeline.learning import pixels
from pipeline.learning.pixels import Lost, PixelCache, Source
from pipeline.preprocess import Preprocess
from tests import builders

LIMITS = images.Limits()
PREPROCESS = Preprocess(resize_size=24, crop_size=16)


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


class Shelf:
    """Files by reference, and what was read of them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.sources: list[Source] = [(hashlib.sha256(data).hexdigest(), name) for name, data in files.items()]
        self.read: list[str] = []

    def fetch(self, reference: str) -> bytes:
        self.read.append(reference)
        if reference not in self.files:
            raise ItemUnfetchable("missing", "There is no such file.")
        return self.files[reference]


def shelf(num: int) -> Shelf:
    return Shelf({f"{number}.png": builders.png_bytes(seed=number, size=(40, 30)) for number in range(num)})


def decoded(data: bytes) -> Image.Image:
    return images.decode(data, LIMITS)


def cache(of: Shelf, *, max_bytes: int = 10**6, lost: list[Lost] | None = None) -> PixelCache:
    on_lost = (lost if lost is not None else []).append
    return PixelCache(
        of.sources, fetch=of.fetch, limits=LIMITS, preprocess=PREPROCESS, max_bytes=max_bytes, on_lost=on_lost
    )


# ---------------------------------------------------------------- reading


def test_images_come_in_order_whatever_the_threads_do(pool: Executor) -> None:
    given = shelf(12)
    late = threading.Event()

    def shape(image: Image.Image) -> Tensor:
        if not late.is_set():  # the first is the slowest
            late.set()
            threading.Event().wait(0.05)
        return PREPROCESS.pixels(image)

    lost: list[Lost] = []
    found = list(
        pixels.read(given.sources, fetch=given.fetch, limits=LIMITS, shape=shape, pool=pool, on_lost=lost.append)
    )
    assert [index for index, _ in found] == list(range(12))
    for index, image in found:
        assert torch.equal(image, PREPROCESS.pixels(decoded(given.files[f"{index}.png"])))
    assert lost == []


def test_a_lost_changed_or_broken_image_is_said_and_the_rest_comes(pool: Executor) -> None:
    given = shelf(6)
    del given.files["1.png"]
    given.files["2.png"] = given.files["3.png"]
    torn = given.files["4.png"][:60]
    given.files["4.png"], given.sources[4] = torn, (hashlib.sha256(torn).hexdigest(), "4.png")
    lost: list[Lost] = []
    found = pixels.read(
        given.sources, fetch=given.fetch, limits=LIMITS, shape=PREPROCESS.pixels, pool=pool, on_lost=lost.append
    )
    assert [index for index, _ in found] == [0, 3, 5]
    assert [(entry.reference, entry.kind) for entry in lost] == [
        ("1.png", "missing"),
        ("2.png", "changed"),
        ("4.png", "truncated"),
    ]
    assert lost[1].reason == "The file is no longer the one that was labelled: its sha256 is another."


def test_no_more_is_read_ahead_than_asked_for_and_nothing_after_the_end(pool: Executor) -> None:
    given = shelf(20)
    stream = pixels.read(
        given.sources, fetch=given.fetch, limits=LIMITS, shape=PREPROCESS.pixels, pool=pool, on_lost=print, lookahead=4
    )
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    pool.shutdown()
    assert len(given.read) <= 4


# ---------------------------------------------------------------- the cache


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (16, 16), (24, 24), (500, 7), (7, 500), (12, 300)])
def test_cached_pixels_are_what_the_preprocessing_gives(size: tuple[int, int]) -> None:
    given = Shelf({"a.png": builders.png_bytes(size=size)})
    expected = PREPROCESS.pixels(decoded(given.files["a.png"]))
    assert torch.equal(cache(given).pixels(0), expected)


def test_an_image_is_read_once_while_memory_lasts(pool: Executor) -> None:
    given = shelf(5)
    one = cache(given).image(0).nbytes
    given.read.clear()
    kept = cache(given, max_bytes=3 * one)
    assert kept.fill(pool) == (0, 1, 2, 3, 4)
    assert (kept.num_kept, len(kept)) == (3, 5)
    given.read.clear()
    for _ in range(2):
        for index in range(5):
            assert torch.equal(kept.image(index), pixels.resized(decoded(given.files[f"{index}.png"]), PREPROCESS))
    assert given.read == ["3.png", "4.png", "3.png", "4.png"]


def test_filling_tells_which_images_can_be_read(pool: Executor) -> None:
    given = shelf(4)
    del given.files["2.png"]
    lost: list[Lost] = []
    kept = cache(given, lost=lost)
    assert kept.fill(pool) == (0, 1, 3)
    assert [entry.reference for entry in lost] == ["2.png"]


def test_an_image_lost_in_training_is_grey_and_said_once(pool: Executor) -> None:
    given = shelf(3)
    lost: list[Lost] = []
    kept = cache(given, max_bytes=0, lost=lost)
    kept.fill(pool)
    given.files["1.png"] = b"something else"
    for _ in range(3):
        assert torch.equal(kept.pixels(1), torch.full((3, 16, 16), pixels.GREY, dtype=torch.uint8))
    assert [(entry.reference, entry.kind) for entry in lost] == [("1.png", "changed")]


def test_who_hears_of_a_lost_image_may_end_the_reading() -> None:
    given = shelf(1)
    given.files.clear()

    def refuse(lost: Lost) -> None:
        raise RuntimeError(lost.reason)

    kept = PixelCache(
        given.sources, fetch=given.fetch, limits=LIMITS, preprocess=PREPROCESS, max_bytes=0, on_lost=refuse
    )
    with pytest.raises(RuntimeError, match="There is no such file"):
        kept.image(0)
