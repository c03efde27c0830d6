"""Takes an RGB image.

Gives the uint8 pixels that a network of one version was trained on, and their normalised floats.
Knows nothing of networks, files or batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.v2 import functional as tensors

from pipeline.errors import PreprocessInvalid

#: mean and standard deviation of ImageNet's RGB values in 0..1 (torchvision.transforms._presets)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: long side over short side; beyond it the ends are cut off first. The centre crop drops them anyway, and a
#: 1 x 65535 strip would otherwise be resized to four thousand megapixels.
MAX_ASPECT = 16
#: resampling filters a card may name
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
#: those with which torch resizes uint8 as Pillow does; the others are left to Pillow
TENSOR_INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How an image becomes the input of a network: resize, centre crop, normalise."""

    #: pixels of the short side after resizing
    resize_size: int
    #: pixels of each side of the square that is cut from the middle
    crop_size: int
    #: one of INTERPOLATIONS
    interpolation: str = "bilinear"
    #: per channel, of values in 0..1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    #: per channel, of values in 0..1
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise PreprocessInvalid(f"interpolation is {self.interpolation!r}; it must be one of {INTERPOLATIONS}.")
        if not (1 <= self.resize_size <= 4096 and 1 <= self.crop_size <= 4096):
            raise PreprocessInvalid("resize_size and crop_size must lie in 1..4096 pixels.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise PreprocessInvalid("mean and std must have three numbers each, and std must be positive.")

    def pixels(self, image: Image.Image) -> Tensor:
        """Give uint8 [3, crop_size, crop_size], exactly as torchvision's Resize and CenterCrop do on PIL."""
        # Left in Pillow's HWC order: a batch of these is channels_last, which is what convolutions want.
        return torch.from_numpy(self._cropped(image)).permute(2, 0, 1)

    def quick_pixels(self, image_HWC: Tensor) -> Tensor:  # noqa: N803
        """Give uint8 [crop_size, crop_size, 3] of uint8 [H, W, 3], within two of 255 levels of what `pixels` gives.

        It takes less than half the time; serving goes this way. Nothing is done that is not needed: each call of torch
        hands the interpreter to another thread, which costs more than a tiny image does.
        """
        if self.interpolation not in TENSOR_INTERPOLATIONS:
            return torch.from_numpy(self._cropped(Image.fromarray(image_HWC.numpy())))
        height, width, _ = image_HWC.shape
        if height == width == self.resize_size == self.crop_size:
            return image_HWC
        left, top, right, bottom = _near_box(width, height)
        near = image_HWC[top:bottom, left:right].permute(2, 0, 1)
        # The kernels themselves: the public functions dispatch first.
        resized = tensors.resize_image(near, [self.resize_size], InterpolationMode(self.interpolation), antialias=True)
        cropped: Tensor = tensors.center_crop_image(resized, [self.crop_size])
        # Copied row by row now: a batch of cut-outs would be gathered byte by byte.
        return cropped.permute(1, 2, 0).contiguous()

    def _cropped(self, image: Image.Image) -> np.ndarray:
        return np.array(F.center_crop(self.resized(image), [self.crop_size]))

    def resized(self, image: Image.Image) -> Image.Image:
        """Give the image with a short side of `resize_size`, before anything is cropped but ends too far out."""
        near = _without_far_ends(image)
        resized: Image.Image = F.resize(near, [self.resize_size], InterpolationMode(self.interpolation))
        return resized

    def normalize(self, images_NCHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:  # noqa: N803
        """Turn uint8 0..255 into (x / 255 - mean) / std on the images' device, computed in fp32."""
        # As (x - 255 mean) / (255 std): the same numbers, in two passes over memory instead of four.
        mean = torch.tensor(self.mean, dtype=torch.float32, device=images_NCHW.device).mul_(255).view(3, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=images_NCHW.device).mul_(255).view(3, 1, 1)
        return (images_NCHW - mean).div_(std).to(dtype)

    def as_dict(self) -> dict[str, object]:
        """Give the fields as JSON values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> Preprocess:
        """Read what `as_dict` gave; raise PreprocessInvalid for anything else."""
        try:
            return cls(
                resize_size=_integer(fields["resize_size"]),
                crop_size=_integer(fields["crop_size"]),
                interpolation=str(fields["interpolation"]),
                mean=_triple(fields["mean"]),
                std=_triple(fields["std"]),
            )
        except KeyError as error:
            raise PreprocessInvalid(f"The preprocessing lacks {error}.") from error

    def digest(self) -> str:
        """Give the sha256 of the canonical JSON: equal digests mean equal pixels."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def _without_far_ends(image: Image.Image) -> Image.Image:
    box = _near_box(*image.size)
    return image if box == (0, 0, *image.size) else image.crop(box)


def _near_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Give left, top, right and bottom of what is left when ends beyond MAX_ASPECT are cut off."""
    longest = MAX_ASPECT * min(width, height)
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return (left, top, left + min(width, longest), top + min(height, longest))


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise PreprocessInvalid(f"A size in pixels must be a whole number, not {value!r}.")
    return value


def _triple(value: object) -> tuple[float, float, float]:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise PreprocessInvalid(f"mean and std must be lists of three numbers, not {value!r}.")
    return float(value[0]), float(value[1]), float(value[2])
