"""Frozen means frozen; every trained parameter has one rate; what did not change can be proved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline import backbones, digits
from pipeline.errors import WeightsDoNotFit
from pipeline.learning import layers
from pipeline.learning.layers import Layers, Strategy
from tests import builders


class Dropping(nn.Module):
    """A small convolutional network with dropout before and after its last stage."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*digits.small_network(5)[:8], nn.Dropout(0.5), *digits.small_network(5)[8:13])
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(self.backbone(images).flatten(1)))
        return logits


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Dropping()


@pytest.fixture
def parts(network: nn.Module) -> Layers:
    return layers.layers(network, 32)


def step_on_shifted_images(network: nn.Module, num_steps: int) -> None:
    """Train on images of another mean, so that running statistics would move."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(num_steps):
        images = torch.randn(8, 3, 32, 32, generator=generator) + 3
        loss = nn.functional.cross_entropy(network.train()(images), torch.arange(8) % 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def changed(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# ---------------------------------------------------------------- freezing


def test_nothing_but_the_head_changes_in_50_steps(network: nn.Module, parts: Layers) -> None:
    frozen = layers.freeze(network, parts, "head")
    before, proof = copied(network), layers.digest(network.state_dict(), frozen)
    backbone = layers.backbone_sha256(network, parts)
    step_on_shifted_images(network, 50)
    assert changed(network, before) == {"head.weight", "head.bias"}
    assert layers.digest(network.state_dict(), frozen) == proof
    assert layers.backbone_sha256(network, parts) == backbone
    assert all(weight.grad is None for name, weight in network.named_parameters() if not name.startswith("head."))


def test_freezing_parameters_alone_moves_the_statistics(network: nn.Module) -> None:
    """The negative control: the test above would see the usual mistake."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    before = copied(network)
    step_on_shifted_images(network, 1)
    assert "backbone.1.running_mean" in changed(network, before)


def test_the_last_stage_trains_and_what_is_before_it_does_not(network: nn.Module, parts: Layers) -> None:
    assert parts.last_stage == ("backbone.9", "backbone.10")
    frozen = layers.freeze(network, parts, "last_stage")
    assert frozen == ("backbone.0.", "backbone.1.", "backbone.4.", "backbone.5.")
    before = copied(network)
    step_on_shifted_images(network, 2)
    assert {name for name in changed(network, before) if name.startswith(frozen)} == set()
    assert {"backbone.9.weight", "backbone.10.weight", "backbone.10.running_mean"} <= changed(network, before)


@pytest.mark.parametrize(
    ("strategy", "dropping"),
    [("head", set()), ("last_stage", {"drop"}), ("all", {"backbone.8", "drop"})],
)
def test_dropout_before_what_is_trained_stays_off(
    network: nn.Module, parts: Layers, strategy: Strategy, dropping: set[str]
) -> None:
    layers.freeze(network, parts, strategy)
    network.train()
    found = {name for name, part in network.named_modules() if isinstance(part, nn.Dropout) and part.training}
    assert found == dropping


def test_a_deep_copy_is_as_frozen_and_independent(network: nn.Module, parts: Layers) -> None:
    frozen = layers.freeze(network, parts, "head")
    twin = copy.deepcopy(network)
    before = copied(twin)
    step_on_shifted_images(twin, 1)
    assert changed(twin, before) == {"head.weight", "head.bias"}
    layers.freeze(twin, parts, "all")
    assert twin.train().get_submodule("backbone.1").training
    assert not network.train().get_submodule("backbone.1").training
    assert frozen == layers.freeze(network, parts, "head")


def test_a_freeze_undoes_the_one_before(network: nn.Module, parts: Layers) -> None:
    layers.freeze(network, parts, "head")
    layers.freeze_batch_norm(network)
    assert layers.freeze(network, parts, "all") == ()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.train().modules())


def test_frozen_batch_norm_keeps_its_statistics_and_trains_scale_and_shift(network: nn.Module, parts: Layers) -> None:
    layers.freeze(network, parts, "all")
    layers.freeze_batch_norm(network)
    before = copied(network)
    step_on_shifted_images(network, 2)
    moved = changed(network, before)
    assert {"backbone.1.weight", "backbone.1.bias", "backbone.0.weight"} <= moved
    assert not [name for name in moved if "running" in name or "num_batches" in name]


def test_frozen_prefixes_do_not_catch_their_neighbours() -> None:
    network = backbones.build("mobilenet_v2", num_classes=3)
    frozen = layers.freeze(network, layers.layers(network, 64), "last_stage")
    caught = {name.split(".")[1] for name in network.state_dict() if name.startswith(frozen)}
    assert caught == {str(number) for number in range(14)}


# ---------------------------------------------------------------- parameter groups


def rates(network: nn.Module, found: Layers, **options: float) -> dict[str, tuple[float, float]]:
    """Give (learning rate, weight decay) per parameter; fail if one is in two groups."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = layers.parameter_groups(network, found, learning_rate=1.0, weight_decay=0.05, **options)
    listed = [(names[parameter], group) for group in groups for parameter in group["params"]]
    assert len(listed) == len({name for name, _ in listed})
    return {name: (group["lr"], group["weight_decay"]) for name, group in listed}


@pytest.mark.parametrize("arch", ["mobilenet_v2", "vit_b_16", "timm:convnext_atto", "densenet121"])
@pytest.mark.parametrize("strategy", ["head", "last_stage", "all"])
def test_every_trained_parameter_is_in_one_group(arch: str, strategy: Strategy) -> None:
    with torch.device("meta"):
        network = backbones.build(arch, num_classes=7)
    found = layers.layers(network, 224)
    layers.freeze(network, found, strategy)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert set(rates(network, found, layer_decay=0.75)) == trained


def test_biases_norms_and_embeddings_are_not_decayed() -> None:
    with torch.device("meta"):
        network = backbones.build("vit_b_16", num_classes=7)
    decayed = {name for name, (_, decay) in rates(network, layers.layers(network, 224)).items() if decay}
    plain = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    assert decayed == plain - {"class_token", "encoder.pos_embedding"}


def test_the_rate_falls_by_the_layer_decay_from_block_to_block() -> None:
    with torch.device("meta"):
        network = backbones.build("timm:vit_tiny_patch16_224", num_classes=7)
    found = layers.layers(network, 224)
    given = rates(network, found, layer_decay=0.75)
    assert given["head.weight"][0] == 1.0
    for number in range(12):
        assert given[f"blocks.{number}.attn.qkv.weight"][0] == pytest.approx(0.75 ** (12 - number))
    for name in ("patch_embed.proj.weight", "cls_token", "pos_embed"):
        assert given[name][0] == pytest.approx(0.75**13)
    assert given["norm.weight"][0] == given["blocks.11.norm1.weight"][0]


def test_the_backbone_learns_at_its_share_of_the_heads_rate(network: nn.Module, parts: Layers) -> None:
    given = {name: rate for name, (rate, _) in rates(network, parts, backbone_scale=0.1).items()}
    assert {rate for name, rate in given.items() if name.startswith("head.")} == {1.0}
    assert {rate for name, rate in given.items() if name.startswith("backbone.")} == {0.1}


# ---------------------------------------------------------------- heads and digests


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "timm:mobilenetv3_small_050"])
def test_a_replaced_head_has_zero_weights_and_the_structure_of_a_built_one(arch: str) -> None:
    network = backbones.build(arch, num_classes=9).eval()
    found = layers.layers(network, 64)
    layers.replace_head(network, found, 4)
    images = torch.ones(2, 3, 64, 64)
    assert torch.equal(network(images), torch.zeros(2, 4))
    expected = backbones.build(arch, num_classes=4).state_dict()
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in expected.items()
    }


def test_a_backbone_is_loaded_beside_a_head_of_another_kind() -> None:
    published = backbones.build("squeezenet1_1", num_classes=10)
    network = backbones.build("squeezenet1_1", num_classes=3, options={"head": "linear"})
    found = layers.layers(network, 64)
    layers.load_backbone(network, found, published.state_dict())
    assert torch.equal(network.get_parameter("features.0.weight"), published.get_parameter("features.0.weight"))
    other = backbones.build("squeezenet1_0", num_classes=10)
    with pytest.raises(WeightsDoNotFit, match="of another shape"):
        layers.load_backbone(network, found, other.state_dict())


@pytest.mark.parametrize(
    ("name", "is_same"),
    [("0.weight", False), ("1.running_var", False), ("5.num_batches_tracked", False), ("14.weight", True)],
)
def test_the_backbones_digest_sees_every_tensor_but_the_heads(name: str, is_same: bool) -> None:
    network = builders.tiny_network()
    found = layers.layers(network, 32)
    before = layers.backbone_sha256(network, found)
    network.state_dict()[name].add_(1)
    assert (layers.backbone_sha256(network, found) == before) is is_same


def test_the_backbones_digest_knows_nothing_of_the_heads_size_memory_or_mode() -> None:
    network = builders.tiny_network(3).eval()
    found = layers.layers(network, 32)
    before = layers.backbone_sha256(network, found)
    layers.replace_head(network, found, 8)
    layers.freeze(network.train().to(memory_format=torch.channels_last), found, "head")
    assert layers.backbone_sha256(network, found) == before


def test_the_same_weights_that_are_padded_otherwise_have_another_digest() -> None:
    plain, padded = (
        backbones.build("timm:mobilenetv2_035", num_classes=3, options=options)
        for options in ({}, {"pad_type": "same"})
    )
    padded.load_state_dict(plain.state_dict())
    found = layers.layers(plain, 64)
    assert layers.digest(plain.state_dict(), ("",)) == layers.digest(padded.state_dict(), ("",))
    assert layers.backbone_sha256(plain, found) != layers.backbone_sha256(padded, found)
