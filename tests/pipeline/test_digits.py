"""The demo's network learns the demo's data, the same way every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline import checkpoints, digits, images
from pipeline.serving.classifier import Classifier


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[digits.Digit]:
    return digits.write_images(tmp_path_factory.mktemp("digits"))


def test_the_digits_are_greyscale_files_of_ten_labels(written: list[digits.Digit]) -> None:
    assert len(written) == 1797
    assert {digit.label for digit in written} == set("0123456789")
    with Image.open(written[0].file) as image:
        assert (image.mode, image.size) == ("L", (32, 32))


def test_the_split_is_the_same_for_the_same_seed(written: list[digits.Digit]) -> None:
    training, held_out = digits.split(written, 0)
    assert digits.split(written, 0) == (training, held_out)
    assert digits.split(written, 1) != (training, held_out)
    assert len(held_out) == 359
    assert {digit.file for digit in training}.isdisjoint(digit.file for digit in held_out)


def test_a_trained_network_reads_held_out_digits_from_its_checkpoint(
    written: list[digits.Digit], tmp_path: Path
) -> None:
    training, held_out = digits.split(written, 0)
    losses: dict[int, float] = {}
    network = digits.train(training, seed=0, num_epochs=8, on_epoch=losses.__setitem__)
    assert list(losses) == list(range(1, 9))
    assert losses[8] < losses[1] / 5
    preprocess = network.preprocess
    draft = checkpoints.Draft(arch=digits.ARCH, classes=tuple("0123456789"), preprocess=preprocess)
    saved = checkpoints.save(network, draft, tmp_path.as_uri(), now_s=0.0)
    classifier = Classifier.open(saved.reference, sha256=saved.sha256, device="cpu", precision="auto", batch_size=8)
    decoded = [images.decode(digit.file.read_bytes(), images.Limits()) for digit in held_out]
    batch = torch.stack([classifier.preprocess.pixels(image) for image in decoded])
    predictions = classifier.predict(batch, top_k=1)
    right = sum(prediction.label == digit.label for prediction, digit in zip(predictions, held_out, strict=True))
    assert right / len(held_out) > 0.97


def test_training_is_the_same_for_the_same_seed(written: list[digits.Digit]) -> None:
    def run(seed: int) -> torch.Tensor:
        network = digits.train(written[:200], seed=seed, num_epochs=1, on_epoch=lambda *_: None)
        return network.get_parameter("14.weight")

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_training_leaves_the_caller_its_random_numbers(written: list[digits.Digit]) -> None:
    before = torch.get_rng_state()
    digits.train(written[:100], seed=0, num_epochs=1, on_epoch=lambda *_: None)
    assert torch.equal(torch.get_rng_state(), before)
