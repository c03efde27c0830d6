"""Weights fit by name, by prefix or by structure; whatever does not fit is refused with the difference."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline import backbones, state_dicts
from pipeline.errors import CheckpointBroken, WeightsDoNotFit
from tests import builders


class Trap:
    """A pickle that runs code when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def weights(network: nn.Module | None = None) -> dict[str, torch.Tensor]:
    return dict((network or builders.tiny_network()).state_dict())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
def test_a_pickle_of_tensors_is_read_from_any_usual_wrapper(tmp_path: Path, wrapper: str | None) -> None:
    content = weights() if wrapper is None else {wrapper: weights(), "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "w.pth")
    assert state_dicts.read(tmp_path / "w.pth").keys() == weights().keys()


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(weights(), tmp_path / "w.safetensors")
    given = state_dicts.read(tmp_path / "w.safetensors")
    assert all(torch.equal(given[name], tensor) for name, tensor in weights().items())


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "beside weights"])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path, wrapped: bool) -> None:
    mark = tmp_path / "executed"
    torch.save({"state_dict": weights(), "extra": Trap(mark)} if wrapped else Trap(mark), tmp_path / "w.pth")
    with pytest.raises(CheckpointBroken, match="not executed"):
        state_dicts.read(tmp_path / "w.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(CheckpointBroken):
        state_dicts.read(tmp_path / "plain.pkl")
    assert not mark.exists()


def test_a_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(builders.tiny_network(), tmp_path / "w.pth")
    with pytest.raises(CheckpointBroken, match="save the network's state_dict"):
        state_dicts.read(tmp_path / "w.pth")


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "noise.pth").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "text.safetensors").write_text("hello, world")
    (tmp_path / "empty.safetensors").touch()
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({}, tmp_path / "nothing.pth")
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    torch.save(weights(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-3000])
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for file in [*tmp_path.iterdir(), tmp_path / "none.pth"]:
        with pytest.raises(CheckpointBroken):
            state_dicts.read(file)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "net.", "module.model.", "student.deep."])
def test_a_prefix_is_stripped(prefix: str) -> None:
    network = builders.tiny_network(seed=1)
    report = state_dicts.load(network, {prefix + name: tensor for name, tensor in weights().items()})
    assert (report.mapped_by, report.fits) == ("prefix", True)
    assert torch.equal(network.state_dict()["0.weight"], weights()["0.weight"])


def test_a_missing_step_counter_does_no_harm() -> None:
    given = {name: tensor for name, tensor in weights().items() if not name.endswith("num_batches_tracked")}
    assert state_dicts.load(builders.tiny_network(), given).mapped_by == "names"


def test_other_names_in_the_same_order_fit_by_structure() -> None:
    given = {f"layer{number}.{name}": tensor for number, (name, tensor) in enumerate(weights().items())}
    network = builders.tiny_network(seed=1)
    report = state_dicts.load(network, given)
    assert (report.mapped_by, report.summary()) == ("structure", "All 20 tensors fit, mapped by structure.")
    assert torch.equal(network.state_dict()["14.bias"], weights()["14.bias"])


def test_the_same_shapes_in_other_roles_do_not_fit_by_structure() -> None:
    given = {f"x{name}".replace("weight", "scale"): tensor for name, tensor in weights().items()}
    with pytest.raises(WeightsDoNotFit):
        state_dicts.load(builders.tiny_network(), given)


def test_another_number_of_classes_is_refused_and_named() -> None:
    network = builders.tiny_network(4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsDoNotFit) as caught:
        state_dicts.load(network, weights())
    report = caught.value.report
    assert [mismatch.name for mismatch in report.mismatched] == ["14.weight", "14.bias"]
    assert "14.weight: [3, 64] in the file, [4, 64] in the network" in str(caught.value)
    assert "number of classes" in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_missing_and_unexpected_tensors_are_named() -> None:
    given = weights()
    given["99.weight"] = given.pop("0.weight")
    given["98.weight"] = given.pop("14.bias")
    with pytest.raises(WeightsDoNotFit) as caught:
        state_dicts.load(builders.tiny_network(), given)
    report = caught.value.report
    assert (set(report.missing), set(report.unexpected)) == (
        {"0.weight", "14.bias"},
        {"99.weight", "98.weight"},
    )
    assert not report.fits


def test_no_weights_at_all_do_not_fit() -> None:
    with pytest.raises(WeightsDoNotFit, match="0 match"):
        state_dicts.load(builders.tiny_network(), {})


# ---------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("file", "arch", "options", "mapped_by"),
    [
        ("mobilenet_v2-torchvision.pth", "mobilenet_v2", {}, "names"),
        ("squeezenet1_0-torchvision.pth", "squeezenet1_0", {}, "names"),
        ("mobilenetv2_100-timm-padsame.pth", "timm:mobilenetv2_100", {"pad_type": "same"}, "names"),
        ("mobilenetv2_100-timm-padsame.pth", "mobilenet_v2", {}, "structure"),
        ("mobilenet_v2-torchvision.pth", "timm:mobilenetv2_100", {}, "structure"),
    ],
)
def test_real_weights_fit(data_folder: Path, file: str, arch: str, options: dict[str, object], mapped_by: str) -> None:
    network = backbones.build(arch, num_classes=1000, options=options)
    given = state_dicts.read(data_folder / "weights" / file)
    report = state_dicts.load(network, given)
    assert (report.mapped_by, report.matched) == (mapped_by, len(given))


@pytest.mark.parametrize(
    ("file", "num_classes", "sentence"),
    [
        ("squeezenet1_0-torchvision.pth", 1000, "Check the architecture"),
        (
            "mobilenet_v2-torchvision.pth",
            10,
            r"classifier.1.weight: \[1000, 1280\] in the file.*number of classes",
        ),
    ],
)
def test_real_weights_that_do_not_fit_say_why(data_folder: Path, file: str, num_classes: int, sentence: str) -> None:
    network = backbones.build("mobilenet_v2", num_classes=num_classes)
    with pytest.raises(WeightsDoNotFit, match=sentence):
        state_dicts.load(network, state_dicts.read(data_folder / "weights" / file))
