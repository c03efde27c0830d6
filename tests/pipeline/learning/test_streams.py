"""Batches come in order, a few ahead, and leave nothing behind when nobody wants more."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import images
from pipeline.learning import pixels, streams, views
from pipeline.preprocess import Preprocess
from tests import builders
from tests.pipeline.learning import trainees


def grey(index: int) -> Tensor:
    time.sleep(0.001 * (index % 3))
    return torch.full((3, 4, 4), index, dtype=torch.uint8)


def test_batches_come_in_order_and_channels_last() -> None:
    orders = [[5, 3, 1], [0], [7, 7]]
    with ThreadPoolExecutor(4) as threads:
        batches = list(streams.batches(orders, grey, size=4, threads=threads))
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == orders
    assert all(batch.dtype == torch.uint8 and batch.shape[1:] == (3, 4, 4) for batch in batches)
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in batches)


def test_only_a_few_batches_are_made_ahead() -> None:
    asked: list[int] = []

    def note(index: int) -> Tensor:
        asked.append(index)
        return grey(index)

    with ThreadPoolExecutor(1) as threads:
        stream = streams.batches([[number] for number in range(50)], note, size=4, threads=threads)
        for _ in range(3):
            next(stream)
        stream.close()
    assert len(asked) <= 3 + streams.LOOKAHEAD


def test_nothing_is_drawn_after_a_stream_is_closed() -> None:
    drawing, go_on = threading.Event(), threading.Event()
    drawn: list[int] = []

    def slow(index: int) -> Tensor:
        drawing.set()
        go_on.wait(10)
        drawn.append(index)
        return grey(index)

    with ThreadPoolExecutor(1) as threads:
        stream = streams.batches([[0], [1], [2], [3]], slow, size=4, threads=threads)
        threading.Thread(target=lambda: (drawing.wait(10), go_on.set())).start()
        next(stream)
        stream.close()
        num_drawn = len(drawn)
        threads.submit(int).result()
        assert len(drawn) == num_drawn


def test_an_error_in_drawing_is_raised_where_the_batch_is_wanted() -> None:
    def torn(index: int) -> Tensor:
        if index == 2:
            raise ValueError("torn")
        return grey(index)

    with ThreadPoolExecutor(2) as threads:
        stream = streams.batches([[0], [1], [2], [3]], torn, size=4, threads=threads)
        assert [int(next(stream)[0, 0, 0, 0]) for _ in range(2)] == [0, 1]
        with pytest.raises(ValueError, match="torn"):
            next(stream)


def test_views_are_of_the_cached_images_in_the_order_given() -> None:
    preprocess = Preprocess(resize_size=24, crop_size=16)
    files = {str(number): builders.png_bytes(seed=number) for number in range(3)}
    lost: list[pixels.Lost] = []
    cache = pixels.PixelCache(
        [(sha256(data), name) for name, data in files.items()],
        fetch=files.__getitem__,
        limits=images.Limits(),
        preprocess=preprocess,
        max_bytes=10**6,
        on_lost=lost.append,
    )
    recipe = trainees.settled(augmentation="crop_flip")
    pictures: streams.Pictures = views.Views(cache, (2, 0), preprocess, recipe)
    serving = [preprocess.pixels(images.decode(data, images.Limits())) for data in files.values()]
    assert len(pictures) == 2
    assert torch.equal(pictures.eval(0), serving[2])
    assert torch.equal(pictures.eval(1), serving[0])
    seen = [pictures.train(0, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert seen[0].shape == (3, 16, 16)
    plain = views.Views(cache, (2,), preprocess, trainees.settled(augmentation="none"))
    assert torch.equal(plain.train(0, np.random.default_rng(0)), serving[2])
    assert not lost


def sha256(data: bytes) -> str:

    return hashlib.sha256(data).hexdigest()
