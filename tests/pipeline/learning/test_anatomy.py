"""The layers that training tells apart are found in networks of every family, by running them once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline import backbones, digits
from pipeline.errors import ArchitectureUnknown
from pipeline.learning import anatomy

#: architecture, head, first and last unit, number of units, first unit of the last stage, kind
FAMILIES = [
    ("resnet18", "fc", "conv1", "layer4.1", 10, "layer4.0", "convolution"),
    ("mobilenet_v2", "classifier.1", "features.0", "features.18", 19, "features.14", "convolution"),
    ("mobilenet_v3_small", "classifier.3", "features.0", "classifier.0", 14, "features.9", "convolution"),
    ("efficientnet_b0", "classifier.1", "features.0", "features.8", 18, "features.6.0", "convolution"),
    ("densenet121", "classifier", "features.conv0", "features.norm5", 10, "features.transition3", "convolution"),
    ("googlenet", "fc", "conv1", "inception5b", 12, "inception5a", "convolution"),
    ("convnext_tiny", "classifier.2", "features.0", "classifier.0", 26, "features.6.1", "transformer"),
    ("swin_t", "head", "features.0.0", "norm", 18, "features.6", "transformer"),
    ("vit_b_16", "heads.head", "class_token", "encoder.ln", 16, "encoder.layers.encoder_layer_8", "transformer"),
    ("timm:regnety_002", "head.fc", "stem", "s4.b7", 14, "s4.b1", "convolution"),
    ("timm:convnext_atto", "head.fc", "stem.0", "head.norm", 21, "stages.3.downsample.1", "transformer"),
    ("timm:vit_tiny_patch16_224", "head", "cls_token", "norm", 16, "blocks.8", "transformer"),
    ("pipeline.digits:small_network", "14", "0", "9", 6, "8", "convolution"),
]


def built(arch: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return backbones.build(arch, num_classes=7, options=options)


@pytest.mark.parametrize(
    ("arch", "head", "first", "last", "num_units", "stage", "kind"), FAMILIES, ids=[row[0] for row in FAMILIES]
)
def test_head_units_and_last_stage_are_found(
    arch: str, head: str, first: str, last: str, num_units: int, stage: str, kind: str
) -> None:
    found = anatomy.layers(built(arch), backbones.preprocess_for(arch).crop_size)
    assert (found.head, found.kind) == (head, kind)
    assert (found.units[0], found.units[-1], len(found.units)) == (first, last, num_units)
    assert found.last_stage == found.units[found.units.index(stage) :]


@pytest.mark.parametrize("arch", ["mobilenet_v2", "vit_b_16", "timm:convnext_atto", "inception_v3", "swin_t"])
def test_every_tensor_belongs_to_exactly_one_layer(arch: str) -> None:
    network = built(arch)
    found = anatomy.layers(network, backbones.preprocess_for(arch).crop_size)
    owners = {
        name: [unit for unit in (*found.units, found.head) if name == unit or name.startswith(f"{unit}.")]
        for name in network.state_dict()
    }
    assert {name: units for name, units in owners.items() if len(units) != 1} == {}


@pytest.mark.parametrize(
    ("arch", "head", "stage"),
    [
        ("squeezenet1_0", "classifier.1.2", ("features.12",)),
        ("squeezenet1_1", "classifier.1.2", ("features.9", "features.10", "features.11", "features.12")),
        ("timm:resnetv2_50", "head.fc.2", ("stages.3", "norm")),
        ("mobilenet_v2", "classifier.1", tuple(f"features.{number}" for number in range(14, 19))),
    ],
)
def test_a_network_that_ends_in_a_convolution_takes_a_linear_head(arch: str, head: str, stage: tuple[str, ...]) -> None:
    found = anatomy.layers(built(arch, head="linear"), 224)
    assert (found.head, found.last_stage) == (head, stage)


def test_a_linear_head_is_fed_the_mean_of_what_the_convolution_saw() -> None:
    network = backbones.build("squeezenet1_1", num_classes=5, options={"head": "linear"}).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pooled = network.get_submodule("features")(images).mean(dim=(2, 3))
        assert torch.allclose(network(images), network.get_submodule("classifier.1.2")(pooled), atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "sentence"),
    [
        ("squeezenet1_1", "head=linear"),
        ("timm:resnetv2_50", "head=linear"),
        ("timm:deit_tiny_distilled_patch16_224", "one linear layer"),
        ("maxvit_t", "no bias"),
        ("torch.nn:Identity", "no parameters"),
    ],
)
def test_a_network_without_a_linear_head_is_refused_with_what_to_do(arch: str, sentence: str) -> None:
    with pytest.raises(ArchitectureUnknown, match=sentence):
        anatomy.layers(built(arch), 224)


def test_a_network_that_gives_no_row_per_image_is_refused() -> None:
    with pytest.raises(ArchitectureUnknown, match="one row of logits"):
        anatomy.layers(nn.Conv2d(3, 4, 3), 32)


def test_a_linear_head_gets_the_bias_it_lacks() -> None:
    assert anatomy.layers(built("maxvit_t", head="linear"), 224).head == "classifier.5"


class Squashed(nn.Module):
    """Something between the linear layer and the output."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = digits.small_network(3)

    def forward(self, images: Tensor) -> Tensor:
        return torch.log_softmax(self.inner(images), dim=1)


def test_a_linear_layer_whose_logits_are_not_the_output_is_no_head() -> None:
    with pytest.raises(ArchitectureUnknown, match="one linear layer"):
        anatomy.layers(Squashed(), 32)


class Backwards(nn.Module):
    """Layers defined in another order than they run, one of them never."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.second = nn.Conv2d(4, 4, 3, stride=2)
        self.unused = nn.Linear(4, 2)
        self.first = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(images)).mean(dim=(2, 3)))
        return logits


def test_units_come_in_the_order_they_run() -> None:
    found = anatomy.layers(Backwards(), 32)
    assert found.units == ("unused", "first", "second")
    assert (found.head, found.last_stage) == ("head", ("second",))


def test_looking_at_a_network_leaves_it_as_it_was() -> None:
    network = digits.small_network(4)
    network.get_submodule("4").eval()
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    anatomy.layers(network, 32)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
