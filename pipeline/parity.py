"""Takes a network's forward.

Gives a parity fixture (a few images and the logits they must give), and how far another forward is from it.
Knows nothing of files, cards or devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: images in a fixture
NUM_IMAGES = 4
#: side of the random grid that is smoothed to the full size: low frequencies, as in photos
GRID_SIZE = 8
#: largest logit difference allowed, in standard deviations of the logits. Measured on CPU with ImageNet
#: weights, mobilenet_v2 and squeezenet1_0: 8e-6 and 2e-6 in fp32 channels_last against NCHW.
FP32_TOLERANCE = 1e-3
#: on CUDA fp32 convolutions run in TF32, with 3 bits of mantissa more than bf16: an eighth of its gap
TF32_TOLERANCE = 0.1
#: measured 0.50 and 0.11 with BatchNorm in fp32, the same under autocast (0.60 and 0.11 with all in bf16);
#: other weights of the same architecture are several deviations away
BF16_TOLERANCE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Images and the fp32 CPU logits they gave when the checkpoint was saved."""

    #: uint8 [4, 3, S, S]
    images_NCHW: Tensor  # noqa: N815
    #: fp32 [4, classes]
    logits: Tensor


def tolerance(device: torch.device, dtype: torch.dtype) -> float:
    """Give the largest gap that a sound checkpoint may have there."""
    if dtype != torch.float32:
        return BF16_TOLERANCE
    return TF32_TOLERANCE if device.type == "cuda" else FP32_TOLERANCE


def parity_images(size: int) -> Tensor:
    """Give the fixture's images, uint8 [4, 3, size, size]: always the same smooth noise."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.rand(NUM_IMAGES, 3, GRID_SIZE, GRID_SIZE, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(grid, size=(size, size), mode="bicubic", align_corners=False)
    return smooth.round().clamp(0, 255).to(torch.uint8)


def parity_gap(forward: Callable[[Tensor], Tensor], parity: Parity) -> float:
    """Give the largest difference of `forward`'s logits from the fixture's, in their standard deviations.

    `forward` takes uint8 [4, 3, S, S] and gives logits [4, classes]. The gap is infinite where the shapes
    differ or a logit is not finite.
    """
    logits = forward(parity.images_NCHW).detach().float().cpu()
    if logits.shape != parity.logits.shape or not logits.isfinite().all():
        return float("inf")
    # The floor keeps a network with constant outputs comparable.
    return float((logits - parity.logits).abs().max() / parity.logits.std().clamp(min=1e-6))
