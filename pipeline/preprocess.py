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
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from pipeline.errors import PreprocessInvalid

#: mean and standard deviation of ImageNet's RGB values in 0..1 (torchvision.transforms._presets)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: long side over short side; beyond it the ends are cut off first. The centre crop drops them anyway, and a
#: 1 x 65535 strip would otherwise be resized to four thousand megapixels.
MAX_ASPECT = 16
#: resampling filters a card may name
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


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

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Give uint8 [3, crop_size, crop_size], exactly as torchvision's Resize and CenterCrop do on PIL."""
        cropped = F.center_crop(self.resized(image), [self.crop_size])
        # Left in Pillow's HWC order: a batch of these is channels_last, which is what convolutions want.
        return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)

    def resized(self, image: Image.Image) -> Image.Image:
        """Give the image with a short side of `resize_size`, before anything is cropped but ends too far out."""
        near = _without_far_ends(image)
        resized: Image.Image = F.resize(near, [self.resize_size], InterpolationMode(self.interpolation))
        return resized

    def normalize(self, images_NCHW: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:  # noqa: N803
        """Turn uint8 0..255 into (x / 255 - mean) / std on the images' device, computed in fp32."""
        mean = torch.tensor(self.mean, device=images_NCHW.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images_NCHW.device).view(3, 1, 1)
        return images_NCHW.float().div_(255).sub_(mean).div_(std).to(dtype)

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
    width, height = image.size
    longest = MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise PreprocessInvalid(f"A size in pixels must be a whole number, not {value!r}.")
    return value


def _triple(value: object) -> tuple[float, float, float]:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise PreprocessInvalid(f"mean and std must be lists of three numbers, not {value!r}.")
    return float(value[0]), float(value[1]), float(value[2])
