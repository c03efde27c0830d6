"""Takes two versions. Gives the seconds an image takes in each, timed by turns on this device.

Knows nothing of what is made of them. Versions of one architecture are not timed: what differs would be noise.
"""

import time

import torch

from db import registry
from pipeline import checkpoints
from pipeline.checkpoints import Loaded
from worker.learning.workshop import Workshop

#: images in one timed batch, and batches per version, of which the fastest counts
BATCH_SIZE, NUM_ROUNDS = 8, 7


def seconds_per_image(
    workshop: Workshop, ours: registry.Version, theirs: registry.Version
) -> tuple[float | None, float | None]:
    """Time both by turns; None, None where they compute the same. Raises `CheckpointBroken`, `StoreUnreachable`."""
    cards = [checkpoints.read_card(version.reference, version.sha256) for version in (ours, theirs)]
    kinds = [(card.arch, dict(card.arch_options), card.preprocess.crop_size) for card in cards]
    if kinds[0] == kinds[1]:
        return None, None
    loaded = [
        checkpoints.load(version.reference, sha256=version.sha256, device=workshop.device) for version in (ours, theirs)
    ]
    rounds = [[_once(workshop, one) for one in loaded] for _ in range(NUM_ROUNDS)]
    # The first round warms up; the fastest of the others is the one that was disturbed least.
    fastest = [min(taken) / BATCH_SIZE for taken in zip(*rounds[1:], strict=True)]
    return fastest[0], fastest[1]


def _once(workshop: Workshop, loaded: Loaded) -> float:
    size = loaded.card.preprocess.crop_size
    images_NCHW = torch.zeros(BATCH_SIZE, 3, size, size, dtype=torch.uint8, device=workshop.device)  # noqa: N806
    began_s = time.perf_counter()
    with torch.inference_mode():
        # Copied to the CPU: a GPU is done only when its answer is here.
        loaded.network(loaded.card.preprocess.normalize(images_NCHW)).cpu()
    return time.perf_counter() - began_s
