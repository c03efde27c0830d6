"""Takes a task's architecture and weights. Gives the network, its pixels and its five best labels, for every peer.

Fp32, in eval mode, on Pillow's pixels as torchvision's weights transforms make them. Runs where only torch,
torchvision and Pillow are installed. Knows nothing of queues, servers or batches.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import torch as safetensors
from torch import nn
from torchvision import models
from torchvision.transforms import functional as F

from bench.peers.rounds import Answer

#: the architecture of the tiny case
DIGITS = "digits"
#: of ImageNet's RGB values in 0..1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: labels given per image
TOP_K = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network that is ready to answer."""

    module: nn.Module
    resize_size: int
    crop_size: int

    @classmethod
    def of(cls, arch: str, module: nn.Module) -> Network:
        """Give the module with the sizes its architecture takes."""
        resize_size, crop_size = (32, 32) if arch == DIGITS else (256, 224)
        return cls(module=module, resize_size=resize_size, crop_size=crop_size)

    def pixels(self, source: str | bytes) -> torch.Tensor:
        """Decode a file, or its bytes, to uint8 [3, crop_size, crop_size]; channels lie last in memory."""
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            image = file.convert("RGB")
        cropped = F.center_crop(F.resize(image, [self.resize_size]), [self.crop_size])
        return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)

    @staticmethod
    def normalized(pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Stack images and give (x / 255 - mean) / std, fp32."""
        return torch.stack(list(pixels)).float().mul_(_SCALE).sub_(_SHIFT)

    @torch.inference_mode()
    def answers(self, pixels: Sequence[torch.Tensor]) -> list[Answer]:
        """Classify a batch."""
        best = self.module(self.normalized(pixels)).softmax(1).topk(TOP_K)
        return [
            [(str(label), score) for label, score in zip(labels, scores, strict=True)]
            for labels, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def warm_up(self, batch_size: int) -> None:
        """Run a batch of noise, twice: the first lets oneDNN choose and pack."""
        noise = torch.randint(0, 256, (self.crop_size, self.crop_size, 3), dtype=torch.uint8).permute(2, 0, 1)
        for _ in range(2):
            self.answers([noise] * batch_size)


#: (x / 255 - mean) / std, as one multiplication and one subtraction
_SCALE = 1 / (255 * torch.tensor(STD).view(3, 1, 1))
_SHIFT = torch.tensor(MEAN).view(3, 1, 1) / torch.tensor(STD).view(3, 1, 1)


def load(arch: str, weights: str, num_classes: int) -> Network:
    """Build `arch`, of torchvision or `digits`, and load its weights, a .safetensors file or torch's own."""
    module = build(arch, num_classes)
    file = Path(weights)
    named = safetensors.load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    module.load_state_dict(named)
    return Network.of(arch, module.eval().to(memory_format=torch.channels_last))


def build(arch: str, num_classes: int) -> nn.Module:
    """Build the network with random weights."""
    if arch == DIGITS:
        from pipeline import digits  # of the tiny case alone

        return digits.small_network(num_classes)
    return models.get_model(arch, weights=None, num_classes=num_classes)
