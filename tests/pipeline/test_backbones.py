"""A name gives a network with the outputs asked for, and a wrong name a hint."""

from __future__ import annotations

import time

import pytest
import torch

from pipeline import backbones
from pipeline.errors import ArchitectureUnknown, WeightsUnreachable
from pipeline.preprocess import Preprocess


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("mobilenet_v3_small", {}),
        ("torchvision:squeezenet1_1", {}),
        ("googlenet", {}),
        ("inception_v3", {}),
        ("timm:mobilenetv2_035", {"pad_type": "same"}),
        ("mobilenetv3_small_050", {}),
        ("pipeline.digits:small_network", {}),
    ],
)
def test_a_network_gives_one_row_of_n_numbers_per_image(arch: str, options: dict[str, object]) -> None:
    network = backbones.build(arch, num_classes=7, options=options).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(2, 3, 128, 128))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 7)


def test_options_reach_timm() -> None:
    padded = backbones.build("timm:mobilenetv2_035", num_classes=2, options={"pad_type": "same"})
    assert "Conv2dSame" in {row.type for row in backbones.module_tree(padded)}


@pytest.mark.parametrize(
    ("arch", "sentence"),
    [
        ("mobilenet_v22", "did you mean .*mobilenet_v2"),
        ("timm:mobilenetv2_101", "did you mean .*mobilenetv2_100"),
        ("torchvision:mobilenetv2_100", "No architecture is called"),
        ("torchvision:fasterrcnn_resnet50_fpn", "No architecture is called"),
        ("qqqqqqqq", "give a name of torchvision or timm"),
        ("no_such_module:factory", "cannot be imported"),
        ("pipeline.digits:no_such_factory", "cannot be imported"),
        ("builtins:dict", "gave a dict"),
        (":", "cannot be imported"),
        ("", "No architecture is called"),
    ],
)
def test_a_name_that_is_not_known_is_refused_with_a_hint(arch: str, sentence: str) -> None:
    with pytest.raises(ArchitectureUnknown, match=sentence):
        backbones.build(arch, num_classes=2)


def test_an_option_that_is_not_known_is_refused() -> None:
    with pytest.raises(ArchitectureUnknown, match=r"cannot be built .*no_such_option"):
        backbones.build("mobilenet_v2", num_classes=2, options={"no_such_option": 1})


@pytest.mark.parametrize(
    ("arch", "preprocess"),
    [
        ("resnet18", Preprocess(resize_size=256, crop_size=224)),
        ("mobilenet_v2", Preprocess(resize_size=256, crop_size=224)),
        ("inception_v3", Preprocess(resize_size=342, crop_size=299)),
        ("timm:mobilenetv2_100", Preprocess(resize_size=256, crop_size=224, interpolation="bicubic")),
        ("pipeline.digits:small_network", Preprocess(resize_size=32, crop_size=32)),
        ("torch.nn:Identity", Preprocess(resize_size=256, crop_size=224)),
    ],
)
def test_the_preprocessing_is_the_one_it_was_published_with(arch: str, preprocess: Preprocess) -> None:
    assert backbones.preprocess_for(arch) == preprocess


def test_every_torchvision_classifier_has_a_preprocessing() -> None:
    for name in backbones.torchvision_names():
        assert backbones.preprocess_for(f"torchvision:{name}").crop_size >= 224


def test_the_module_tree_counts_parameters_and_what_is_trained() -> None:
    with torch.device("meta"):
        network = backbones.build("squeezenet1_1", num_classes=5)
    for parameter in network.get_submodule("features").parameters():
        parameter.requires_grad_(False)
    rows = {row.name: row for row in backbones.module_tree(network)}
    assert rows[""].depth == 0
    assert rows["features"].depth == 1
    assert (rows["features"].trainable, rows["classifier"].trainable) == (False, True)
    assert rows["classifier.1"].shapes == (("weight", (5, 512, 1, 1)), ("bias", (5,)))
    assert rows["classifier.1"].num_parameters == 5 * 513
    assert rows[""].num_parameters == sum(parameter.numel() for parameter in network.parameters())


def test_weights_of_an_unknown_name_are_refused() -> None:
    with pytest.raises(WeightsUnreachable, match="it has DEFAULT, IMAGENET1K_V1"):
        backbones.published("mobilenet_v2", "IMAGENET22K")
    with pytest.raises(WeightsUnreachable, match="publishes no weights"):
        backbones.published("timm:mobilenetv2_100", "no_such_tag")
    with pytest.raises(WeightsUnreachable, match="no published weights"):
        backbones.published("pipeline.digits:small_network", "DEFAULT")


@pytest.mark.parametrize("arch", ["mobilenet_v2", "timm:mobilenetv2_100"])
def test_published_weights_come_whole_or_are_refused_soon(arch: str) -> None:
    started = time.monotonic()
    try:
        given = backbones.published(arch, "DEFAULT")
    except WeightsUnreachable as error:
        took_s, sentence = time.monotonic() - started, str(error)
        assert took_s < 20
        assert sentence.endswith("give a file of weights instead.")
    else:
        assert len(given.classes) == 1000
        assert set(given.state_dict) == set(backbones.build(arch, num_classes=1000).state_dict())
