"""Small real things to train: coloured images in memory, a network for them, a recipe, and the run itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.learning import finetune, layers, recipes
from pipeline.learning.epochs import Epoch
from pipeline.preprocess import Preprocess

SIZE = 16
PREPROCESS = Preprocess(resize_size=SIZE, crop_size=SIZE)


class Coloured:
    """Noise whose mean colour says the class; training sees it shifted by a few pixels."""

    def __init__(self, num: int, num_classes: int, *, seed: int, contrast: float = 40.0) -> None:
        rng = np.random.default_rng(seed)
        self.targets = [index % num_classes for index in range(num)]
        tints = np.random.default_rng(7).normal(size=(num_classes, 3, 1, 1)) * contrast
        noise = rng.normal(128, 40, size=(num, 3, SIZE, SIZE))
        values = noise + tints[self.targets]
        self.images = torch.from_numpy(values.clip(0, 255).astype(np.uint8))

    def __len__(self) -> int:
        return len(self.images)

    def train(self, index: int, rng: np.random.Generator) -> Tensor:
        return self.images[index].roll(int(rng.integers(-2, 3)), dims=2)

    def eval(self, index: int) -> Tensor:
        return self.images[index]


def network(num_classes: int = 3, *, seed: int = 0, dropout: float = 0.0) -> nn.Module:
    """Two blocks of convolution and BatchNorm; "block1.0" etc. tell the blocks apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *_block(3, 8), *_block(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout),
            nn.Linear(16, num_classes),
        )  # fmt: skip


def _block(num_in: int, num_out: int) -> list[nn.Module]:
    return [nn.Conv2d(num_in, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU(), nn.MaxPool2d(2)]


class Cramped(nn.Module):
    """A network on a device that holds so many images in training."""

    def __init__(self, inner: nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room = inner, room

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > self.room:
            raise torch.OutOfMemoryError(f"{len(images)} images do not fit")
        logits: Tensor = self.inner(images)
        return logits


def cramped(num_classes: int) -> nn.Module:
    """Build the small network, on a device that holds five images at a time in training; a factory."""
    return Cramped(network(num_classes), 5)


def settled(*, num_train: int = 48, num_classes: int = 3, strategy: str = "all", **fields: object) -> recipes.Settled:
    given: dict[str, object] = {"precision": "fp32", "epochs": 4, "batch_size": 16, "learning_rate": 0.05, **fields}
    recipe = recipes.Recipe.from_dict(given)
    return recipes.settle(
        recipe, num_train=num_train, num_classes=num_classes, kind="convolution", strategy=strategy  # type: ignore[arg-type]
    )  # fmt: skip


def no_objection() -> None:
    """Keep going."""


def run(
    folder: Path,
    *,
    student: nn.Module | None = None,
    train: Coloured | None = None,
    val: Coloured | None = None,
    recipe: recipes.Settled | None = None,
    num_classes: int = 3,
    seed: int = 1,
    num_threads: int = 2,
    keep_going: Callable[[], None] = no_objection,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    **more: Any,
) -> finetune.Trained:
    student = student or network(num_classes)
    train, val = train or Coloured(48, num_classes, seed=1), val or Coloured(24, num_classes, seed=2)
    with ThreadPoolExecutor(num_threads) as threads:
        return finetune.finetune(
            student,
            layers.layers(student, SIZE),
            train=train,
            train_targets=train.targets,
            val=val,
            val_targets=val.targets,
            num_classes=num_classes,
            preprocess=PREPROCESS,
            settled=recipe or settled(num_train=len(train), num_classes=num_classes),
            seed=seed,
            device=torch.device("cpu"),
            folder=folder,
            keep_going=keep_going,
            on_epoch=on_epoch,
            threads=threads,
            **more,
        )


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks are the same to the bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


if __name__ == "__main__":  # a run to be killed: it says each epoch, and waits a while before each batch
    torch.set_num_threads(1)
    run(
        Path(sys.argv[1]),
        keep_going=lambda: time.sleep(0.05),
        on_epoch=lambda epoch: print(epoch.number, flush=True),
    )
