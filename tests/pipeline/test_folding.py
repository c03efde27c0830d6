"""A folded network says the same with fewer layers; one that cannot be folded stays as it is."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from pipeline.serving.folding import fold_batch_norms


def lively(network: nn.Module) -> nn.Module:
    """Give BatchNorms statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


BUILDERS = {
    "mobilenet_v3_small": torchvision.models.mobilenet_v3_small,
    "resnet18": torchvision.models.resnet18,
    "timm mobilenetv2_100": lambda: timm.create_model("mobilenetv2_100"),
    "timm with padding of its own": lambda: timm.create_model("mobilenetv2_100", pad_type="same"),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_folded_network_gives_the_same_logits_without_its_batch_norms(build: object) -> None:
    network = lively(build())
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = network(images)
    found = num_norms(network)
    assert fold_batch_norms(network) == found > 0
    assert num_norms(network) == 0
    with torch.inference_mode():
        after = network(images)
    assert float((after - before).abs().max() / before.std()) < 1e-4


class Shared(nn.Module):
    """Uses one convolution twice, and another's output twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.branched = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, images: Tensor) -> Tensor:
        first = self.norms[1](self.twice(self.norms[0](self.twice(images))))
        branched = self.branched(first)
        return branched + self.norms[2](branched)


class Wilful(nn.Module):
    """Goes different ways for different values, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)) if images.sum() > 0 else images


@pytest.mark.parametrize(
    "build", [Shared, Wilful, lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3).train())]
)
def test_what_cannot_be_folded_stays_as_it_is(build: type[nn.Module]) -> None:
    network = build()
    if not isinstance(network, nn.Sequential):
        network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert fold_batch_norms(network) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
