"""Small real things for tests of every ring: images, a network, a checkpoint."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from pipeline import checkpoints, digits
from pipeline.preprocess import Preprocess

#: the classes of the tiny checkpoint
TINY_CLASSES = ("cat", "dog", "hen")


def tiny_image(*, size: tuple[int, int] = (40, 30), seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Give smooth noise, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (4, 4, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(noise.numpy()).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002 - Pillow's word
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg_bytes(*, size: tuple[int, int] = (40, 30), seed: int = 0, mode: str = "RGB", **options: object) -> bytes:
    return encoded(tiny_image(size=size, seed=seed, mode=mode), "JPEG", **options)


def png_bytes(*, size: tuple[int, int] = (40, 30), seed: int = 0, mode: str = "RGB", **options: object) -> bytes:
    return encoded(tiny_image(size=size, seed=seed, mode=mode), "PNG", **options)


def tiny_network(num_classes: int = 3, *, seed: int = 0) -> nn.Module:
    """Give a small random network with distinct outputs, for 3x32x32 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = digits.small_network(num_classes)
        # Fresh heads give nearly equal logits; spread them, so that labels are no coin toss.
        with torch.no_grad():
            network.get_parameter("14.weight").mul_(20)
    return network.eval()


def tied_network(num_classes: int) -> nn.Module:
    """Give a network two of whose layers are one, with weights that are not contiguous."""
    layer = nn.Linear(32, 32)
    layer.weight.data = layer.weight.data.t()
    ends = nn.Linear(96, 32), nn.Linear(32, num_classes)
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 32)), nn.Flatten(), ends[0], layer, layer, ends[1])


def tiny_draft(classes: tuple[str, ...] = TINY_CLASSES, **fields: object) -> checkpoints.Draft:
    preprocess = Preprocess(resize_size=digits.SIZE, crop_size=digits.SIZE)
    given = {"arch": digits.ARCH, "classes": classes, "preprocess": preprocess, **fields}
    return checkpoints.Draft(**given)


def tiny_checkpoint(
    store: Path | str,
    *,
    classes: tuple[str, ...] = TINY_CLASSES,
    seed: int = 0,
    now_s: float = 1_700_000_000.0,
) -> checkpoints.Saved:
    """Save a tiny network under `store` (a folder or an fsspec URL)."""
    url = store.as_uri() if isinstance(store, Path) else store
    return checkpoints.save(tiny_network(len(classes), seed=seed), tiny_draft(classes), url, now_s=now_s)
