"""Cores are shared out as was measured; every layout uses all of them and no more."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.serving import layouts
from pipeline.serving.classifier import Classifier
from tests import builders


@pytest.mark.parametrize(
    ("num_cores", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(2, 1), (1, 2)]),
        (6, [(6, 1), (3, 2), (1, 4), (1, 6)]),
        (8, [(8, 1), (4, 2), (2, 4), (1, 8)]),
    ],
)
def test_layouts_go_from_a_lane_for_each_core_to_one_for_all(num_cores: int, expected: list[tuple[int, int]]) -> None:
    assert [(layout.num_lanes, layout.num_threads) for layout in layouts.every(num_cores)] == expected


def test_each_lane_has_its_threads_and_the_others_keep_theirs() -> None:
    before = torch.get_num_threads()
    both = threading.Barrier(2)

    def num_threads() -> int:
        both.wait(timeout=10)
        return torch.get_num_threads()

    with layouts.Layout(2, 3, 16).open_pool() as pool:
        assert [one.result() for one in [pool.submit(num_threads) for _ in range(2)]] == [3, 3]
    assert torch.get_num_threads() == before


def test_what_was_measured_is_a_layout_of_these_cores(tmp_path: Path) -> None:
    saved = builders.tiny_checkpoint(tmp_path)
    classifier = Classifier.open(saved.reference, sha256=saved.sha256, device="cpu", precision="fp32", batch_size=4)
    chosen = layouts.fastest(classifier, 2)
    assert (chosen.num_lanes, chosen.num_threads) in [(2, 1), (1, 2)]
    assert chosen.batch_size in (16, 32, 64)
    assert layouts.fastest(None, 2) == layouts.of(1, 2)


@pytest.mark.parametrize(("image_s", "batch_size"), [(0.02, 16), (0.0003, 32), (0.0001, 64), (0.000001, 64)])
def test_a_quick_network_gets_larger_batches(image_s: float, batch_size: int) -> None:
    assert layouts._with_batches(layouts.of(1, 2), image_s).batch_size == batch_size


class Slow(nn.Module):
    """Takes its time for each image."""

    def __init__(self, image_s: float) -> None:
        super().__init__()
        self.image_s = image_s

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(self.image_s * len(images))
        return images.mean(dim=(2, 3))


@pytest.mark.parametrize(("image_s", "num_images"), [(0.3, 1), (0.1, 4), (0.0, layouts.NUM_IMAGES)])
def test_a_slow_network_is_tried_on_few_images(tmp_path: Path, image_s: float, num_images: int) -> None:
    saved = builders.tiny_checkpoint(tmp_path)
    tiny = Classifier.open(saved.reference, sha256=saved.sha256, device="cpu", precision="fp32", batch_size=1)
    slow = Classifier(network=Slow(image_s), card=tiny.card, device=tiny.device, dtype=tiny.dtype)
    assert 1 <= len(layouts._sample(slow)) <= num_images
