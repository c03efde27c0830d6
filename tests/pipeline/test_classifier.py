"""A classifier is checked before it serves, and serves each image as if it were alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import checkpoints
from pipeline.errors import CheckpointBroken, DeviceUnavailable
from pipeline.serving.classifier import Classifier, batch_sizes
from tests import builders


def open_tiny(store: Path, precision: str = "fp32", **fields: object) -> Classifier:
    saved = checkpoints.save(builders.tiny_network(), builders.tiny_draft(**fields), store.as_uri(), now_s=0.0)
    return Classifier.open(saved.reference, sha256=saved.sha256, device="cpu", precision=precision, batch_size=4)


def some_images(num: int) -> Tensor:
    generator = torch.Generator().manual_seed(num)
    return torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_predictions_are_the_softmax_of_the_logits_over_the_temperature(tmp_path: Path) -> None:
    classifier = open_tiny(tmp_path, temperature=2.0)
    images = some_images(5)
    logits = builders.tiny_network()(classifier.preprocess.normalize(images)).detach()
    expected = torch.softmax(logits / 2, dim=1)
    predictions = classifier.predict(images, top_k=2)
    for prediction, row in zip(predictions, expected, strict=True):
        assert prediction.label == classifier.classes[int(row.argmax())] == prediction.top_k[0][0]
        assert prediction.score == pytest.approx(float(row.max()), abs=1e-5)
        assert [score for _, score in prediction.top_k] == pytest.approx(row.topk(2).values.tolist(), abs=1e-5)


def test_a_batch_gives_what_each_image_gives_alone(tmp_path: Path) -> None:
    classifier = open_tiny(tmp_path)
    images = some_images(7)
    together = classifier.predict(images, top_k=3)
    for image, prediction in zip(images, together, strict=True):
        (alone,) = classifier.predict(image[None], top_k=3)
        assert alone.label == prediction.label
        assert alone.score == pytest.approx(prediction.score, abs=1e-5)


@pytest.mark.parametrize(("top_k", "given"), [(0, 1), (1, 1), (3, 3), (50, 3)])
def test_top_k_is_as_long_as_there_are_classes(tmp_path: Path, top_k: int, given: int) -> None:
    (prediction,) = open_tiny(tmp_path).predict(some_images(1), top_k=top_k)
    assert len(prediction.top_k) == given
    if given == 3:
        assert sum(score for _, score in prediction.top_k) == pytest.approx(1)


def test_no_images_give_no_predictions(tmp_path: Path) -> None:
    assert open_tiny(tmp_path).predict(some_images(0), top_k=1) == []


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 32, 32), torch.zeros(3, 32, 32, dtype=torch.uint8)])
def test_images_of_another_kind_are_a_bug(tmp_path: Path, images: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        open_tiny(tmp_path).predict(images, top_k=1)


def test_bf16_is_served_where_it_is_asked_for_and_good_enough(tmp_path: Path) -> None:
    exact, fast = open_tiny(tmp_path), open_tiny(tmp_path, precision="bf16")
    assert fast.dtype == torch.bfloat16
    assert fast.num_bytes < exact.num_bytes
    assert {parameter.dtype for parameter in fast.network.parameters()} == {torch.bfloat16}


def replace_parity(saved: checkpoints.Saved, *, shift: float) -> None:
    """Seal a fixture whose logits are off, as if the library under the network had changed."""
    import hashlib

    import safetensors.torch

    folder = Path(saved.reference.removeprefix("file://"))
    fixture = safetensors.torch.load((folder / "parity.safetensors").read_bytes())
    fixture["logits"] += shift * fixture["logits"].std()
    data = safetensors.torch.save(fixture)
    card = json.loads((folder / "card.json").read_text())
    (folder / "parity.safetensors").write_bytes(data)
    (folder / "card.json").write_text(json.dumps({**card, "parity_sha256": hashlib.sha256(data).hexdigest()}))


@pytest.mark.parametrize(("precision", "shift"), [("fp32", 0.01), ("bf16", 2.0), ("auto", 0.01)])
def test_a_checkpoint_that_misses_its_fixture_is_not_served(tmp_path: Path, precision: str, shift: float) -> None:
    saved = builders.tiny_checkpoint(tmp_path)
    replace_parity(saved, shift=shift)
    with pytest.raises(CheckpointBroken, match="misses its parity fixture"):
        Classifier.open(saved.reference, sha256=None, device="cpu", precision=precision, batch_size=1)


def test_auto_falls_back_to_fp32_where_bf16_misses_the_fixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved = builders.tiny_checkpoint(tmp_path)
    # The CPU stands in for a GPU with bf16, and a network for one that bf16 does not suit.
    monkeypatch.setattr("pipeline.devices.choose_precision", lambda *_: torch.bfloat16)
    monkeypatch.setattr("pipeline.parity.BF16_TOLERANCE", 1e-9)
    with caplog.at_level(logging.WARNING):
        classifier = Classifier.open(saved.reference, sha256=saved.sha256, device="cpu", precision="auto", batch_size=1)
    assert classifier.dtype == torch.float32
    assert "is not served in bf16: it misses its parity fixture" in caplog.text


class Crowded(nn.Module):
    """Runs out of memory with more than `limit` images, and remembers what it was given."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.limit:
            raise torch.OutOfMemoryError
        return images.mean(dim=(2, 3))


def with_network(store: Path, network: nn.Module) -> Classifier:
    tiny = open_tiny(store)
    return Classifier(network=network, card=tiny.card, device=tiny.device, dtype=tiny.dtype)


def test_a_batch_that_does_not_fit_in_memory_is_halved_until_it_does(tmp_path: Path) -> None:
    crowded = Crowded(limit=2)
    images = some_images(7)
    predictions = with_network(tmp_path, crowded).predict(images, top_k=1)
    roomy = with_network(tmp_path, Crowded(limit=100)).predict(images, top_k=1)
    assert predictions == roomy
    assert crowded.sizes == [7, 4, 2, 2, 2, 1]


def test_what_did_not_fit_in_memory_is_not_tried_again(tmp_path: Path) -> None:
    crowded = Crowded(limit=2)
    classifier = with_network(tmp_path, crowded)
    classifier.predict(some_images(7), top_k=1)
    crowded.sizes.clear()
    classifier.predict(some_images(5), top_k=1)
    assert crowded.sizes == [2, 2, 1]


def test_one_image_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        with_network(tmp_path, Crowded(limit=0)).predict(some_images(2), top_k=1)


@pytest.mark.parametrize(
    "network",
    [nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 3))), nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))],
    ids=["other rows", "other classes"],
)
def test_a_network_that_does_not_give_one_row_per_image_is_refused(tmp_path: Path, network: nn.Module) -> None:
    with pytest.raises(CheckpointBroken, match="scores for 2 images"):
        with_network(tmp_path, network).predict(some_images(2), top_k=1)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    saved = builders.tiny_checkpoint(tmp_path)
    with pytest.raises(DeviceUnavailable):
        Classifier.open(saved.reference, sha256=saved.sha256, device="cuda:77", precision="auto", batch_size=1)


def test_every_size_that_serving_sees_is_warmed_up() -> None:
    assert batch_sizes(64, torch.device("cpu")) == (1, 64)
    assert batch_sizes(1, torch.device("cpu")) == (1,)
    assert batch_sizes(48, torch.device("cuda")) == (1, 2, 4, 8, 16, 32, 48)
    assert batch_sizes(1, torch.device("cuda")) == (1,)
