"""BatchNorm remembers what the network was trained on: other images lie further away."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.learning import shifts
from tests import builders


def normed(*, mean: float, std: float) -> nn.Module:
    norm = nn.BatchNorm2d(2, eps=0.0)
    nn.init.constant_(norm.get_buffer("running_mean"), mean)
    nn.init.constant_(norm.get_buffer("running_var"), std**2)
    return nn.Sequential(norm).eval()


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [(0.0, 1.0, 0.0), (2.0, 1.0, 4.0), (0.0, 2.0, 0.25), (1.0, 0.5, 4 + 1)],
    ids=["the same", "moved", "wider", "both"],
)
def test_the_distance_is_that_of_science_1_2(mean: float, std: float, expected: float) -> None:
    images = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True, correction=0)
    found = shifts.batch_norm_distance(normed(mean=mean, std=std), images.split(10))
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_network_is_left_as_it_was() -> None:
    network = builders.tiny_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert shifts.batch_norm_distance(network, [images]) is not None
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_network_trained_on_the_images_is_nearer_to_them() -> None:
    network = builders.tiny_network()
    images = 3 + 2 * torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    far = shifts.batch_norm_distance(network, [images])
    network.train()
    for _ in range(50):
        network(images)
    near = shifts.batch_norm_distance(network.eval(), [images])
    assert far is not None
    assert near is not None
    assert near < 0.02 < far


def test_hooks_go_even_if_the_images_fail() -> None:
    network = builders.tiny_network()
    with pytest.raises(RuntimeError):
        shifts.batch_norm_distance(network, [torch.zeros(1, 5, 32, 32)])
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_without_layers_or_images_there_is_no_distance() -> None:
    assert shifts.batch_norm_distance(nn.Sequential(nn.Conv2d(3, 4, 3)), [torch.zeros(1, 3, 8, 8)]) is None
    assert shifts.batch_norm_distance(builders.tiny_network(), []) is None
