"""Takes an empty folder.

Gives the demo's data and network: handwritten digits as PNG files, and a network that learns them in seconds.
Knows nothing of queues, or of any other data.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from pipeline import images
from pipeline.preprocess import Preprocess

#: pixels of a side, of the files and of the network's input
SIZE = 32
#: every fifth digit is held out
HELD_OUT = 0.2
#: settings that reach 0.97 on held-out digits with a wide margin
BATCH_SIZE, LEARNING_RATE = 64, 2e-2
#: name under which `backbones.build` finds the network
ARCH = "pipeline.digits:small_network"


@dataclass(frozen=True, slots=True, kw_only=True)
class Digit:
    """One labelled image."""

    file: Path
    #: "0" to "9"
    label: str


def write_images(folder: Path) -> list[Digit]:
    """Write scikit-learn's 1,797 digits (8x8, values 0..16) as 32x32 greyscale PNG files into `folder`."""
    # scikit-learn belongs to the demo alone, so it is imported here.
    data = importlib.import_module("sklearn.datasets").load_digits()
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write(folder / f"digit-{number:04}.png", values, str(label))
        for number, (values, label) in enumerate(zip(data.images, data.target, strict=True))
    ]


def split(digits: Sequence[Digit], seed: int) -> tuple[list[Digit], list[Digit]]:
    """Give (training, held-out) digits, four to one; the same for the same seed."""
    shuffled = list(digits)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - a split, not a secret
    num_held_out = round(len(shuffled) * HELD_OUT)
    return shuffled[num_held_out:], shuffled[:num_held_out]


def small_network(num_classes: int) -> nn.Module:
    """Build three convolutions with BatchNorm for 3x32x32 images, about 25 thousand parameters."""
    network = nn.Sequential(*_block(3, 16), *_block(16, 32), *_block(32, 64), *_head(64, num_classes))
    network.preprocess = Preprocess(resize_size=SIZE, crop_size=SIZE)  # type: ignore[assignment]
    return network


def train(
    examples: Sequence[Digit], *, seed: int, num_epochs: int, on_epoch: Callable[[int, float], None]
) -> nn.Module:
    """Train a small network on the examples' files; call `on_epoch` with the epoch from 1 and its mean loss.

    Its outputs are the examples' labels in sorted order.
    """
    labels = sorted({example.label for example in examples})
    targets = torch.tensor([labels.index(example.label) for example in examples])
    preprocess = Preprocess(resize_size=SIZE, crop_size=SIZE)
    inputs = preprocess.normalize(torch.stack([_pixels(example.file, preprocess) for example in examples]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = small_network(len(labels))
        _fit(network, inputs, targets, num_epochs, on_epoch)
    return network.eval()


def _fit(
    network: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    num_epochs: int,
    on_epoch: Callable[[int, float], None],
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs)
    for epoch in range(1, num_epochs + 1):
        losses = [
            _step(network, optimizer, inputs[rows], targets[rows])
            for rows in torch.split(torch.randperm(len(inputs)), BATCH_SIZE)
        ]
        schedule.step()
        on_epoch(epoch, sum(losses) / len(losses))


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    loss = nn.functional.cross_entropy(network(inputs), targets)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return float(loss.detach())


def _pixels(file: Path, preprocess: Preprocess) -> torch.Tensor:
    return preprocess.pixels(images.decode(file.read_bytes(), images.Limits()))


def _write(file: Path, values: np.ndarray, label: str) -> Digit:
    small = Image.fromarray((values * (255 / 16)).round().astype(np.uint8))
    small.resize((SIZE, SIZE), Image.Resampling.BILINEAR).save(file)
    return Digit(file=file, label=label)


def _block(num_in: int, num_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(num_out), nn.ReLU(), nn.MaxPool2d(2)]


def _head(num_in: int, num_classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(num_in, num_classes)]
