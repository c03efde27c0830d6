"""Takes a snapshot and the version a run starts from. Gives what learning computes with: features, targets, a network.

Knows nothing of what is decided or trained. Features come from the cache; only images it lacks are read.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from db import registry
from pipeline import checkpoints, errors
from pipeline.learning import averages, features, layers, pixels, snapshots
from pipeline.learning.layers import Layers
from pipeline.learning.pixels import Source
from pipeline.learning.snapshots import SPLITS, Example, Snapshot, Split
from pipeline.preprocess import Preprocess
from worker.learning.watch import Pace
from worker.learning.workshop import Workshop

log = logging.getLogger(__name__)

#: training images that BatchNorm's statistics are measured on
MOST_MEASURED = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """The version a run starts from, as a network without a head for the classes yet."""

    version: registry.Version
    loaded: checkpoints.Loaded
    layers: Layers
    backbone_sha256: str

    @property
    def preprocess(self) -> Preprocess:
        """How images become its pixels."""
        return self.loaded.card.preprocess

    def network(self, num_classes: int) -> nn.Module:
        """Give a copy with a head of zeros for so many classes."""
        network = copy.deepcopy(self.loaded.network)
        layers.replace_head(network, self.layers, num_classes)
        return network


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """The images of one split that could be read."""

    examples: tuple[Example, ...]
    #: fp32 [N, D], penultimate activations
    features: Tensor
    #: int64 [N], class numbers
    targets: Tensor

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Material:
    """All a run learns from."""

    snapshot: Snapshot
    start: Start
    train: Part
    val: Part
    test: Part
    #: images that are gone, changed or unreadable since they were labelled
    lost: tuple[pixels.Lost, ...]

    @property
    def masked(self) -> tuple[int, ...]:
        """Numbers of the removed classes."""
        return tuple(self.snapshot.classes.index(name) for name in self.snapshot.removed)


def open_start(workshop: Workshop, version: registry.Version) -> Start:
    """Load the version a run starts from. Raises `CheckpointBroken`, `StoreUnreachable`, `ArchitectureUnknown`."""
    loaded = checkpoints.load(version.reference, sha256=version.sha256, device=workshop.device)
    found = layers.layers(loaded.network, loaded.card.preprocess.crop_size)
    sha256 = layers.backbone_sha256(loaded.network, found)
    return Start(version=version, loaded=loaded, layers=found, backbone_sha256=sha256)


def loosened(workshop: Workshop, pace: Pace, start: Start, snapshot: Snapshot, *, keep: float) -> Start:
    """Shrink the champion's weights and add noise, so that what it learned can be unlearned (Ash & Adams 2020).

    BatchNorm's statistics are measured anew on training images.
    """
    network = copy.deepcopy(start.loaded.network)
    backbone = [name for name, _ in network.named_parameters() if not name.startswith(f"{start.layers.head}.")]
    averages.shrink_perturb(network, backbone, keep=keep, seed=pace.seed)
    read = pixels.read(
        [source(example) for example in snapshot.of("train")[:MOST_MEASURED]],
        fetch=workshop.fetch,
        limits=workshop.limits,
        shape=start.preprocess.pixels,
        pool=workshop.pool,
        on_lost=lambda _: None,
    )
    images = [image for _, image in read]
    batches = (
        torch.stack(images[row : row + workshop.batch_size]) for row in range(0, len(images), workshop.batch_size)
    )
    averages.refresh_statistics(network, (start.preprocess.normalize(batch.to(workshop.device)) for batch in batches))
    loaded = replace(start.loaded, network=network)
    return replace(start, loaded=loaded, backbone_sha256=layers.backbone_sha256(network, start.layers))


def gather(workshop: Workshop, pace: Pace, snapshot: Snapshot, start: Start) -> Material:
    """Read features and targets of every split. Raises `SnapshotInvalid` if too many images are gone to learn from."""
    values, kept, lost = features_of(
        workshop, pace, start.loaded.network, start.layers, start.preprocess, snapshot.examples
    )
    if lost:
        log.warning("%s labelled images of %s cannot be used, the first: %s", len(lost), pace.model, lost[0].kind)
    parts = {split: _part(snapshot, values, kept, split) for split in SPLITS}
    material = Material(snapshot=snapshot, start=start, lost=lost, **parts)
    _refuse_ruins(material)
    return material


def source(example: Example) -> Source:
    """Give what an image is read by: its content hash and where it lay."""
    return example.sha256, example.reference


def targets_of(classes: Sequence[str], examples: Sequence[Example]) -> Tensor:
    """Give class numbers, int64 [N]."""
    return torch.tensor(snapshots.targets_of(classes, examples), dtype=torch.int64)


def features_of(
    workshop: Workshop,
    pace: Pace,
    network: nn.Module,
    found: Layers,
    preprocess: Preprocess,
    examples: Sequence[Example],
) -> tuple[Tensor, tuple[Example, ...], tuple[pixels.Lost, ...]]:
    """Give features [N, D] of the examples that can be read, those examples, and what was lost."""
    extracted = extract(workshop, pace, network, found, preprocess, [source(example) for example in examples])
    return extracted.features, tuple(examples[index] for index in extracted.kept), extracted.lost


def extract(
    workshop: Workshop,
    pace: Pace,
    network: nn.Module,
    found: Layers,
    preprocess: Preprocess,
    sources: Sequence[Source],
) -> features.Extracted:
    """Give the features of images by content hash, labelled or not, from the cache as far as it has them."""
    return features.cached(
        network,
        found,
        preprocess,
        sources,
        features.FeatureCache.open(workshop.store, layers.backbone_sha256(network, found), preprocess.digest()),
        fetch=workshop.fetch,
        limits=workshop.limits,
        pool=workshop.pool,
        device=workshop.device,
        batch_size=workshop.batch_size,
        keep_going=pace.keep_going,
    )


def _part(snapshot: Snapshot, values: Tensor, kept: Sequence[Example], split: Split) -> Part:
    rows = [row for row, example in enumerate(kept) if example.split == split]
    examples = tuple(kept[row] for row in rows)
    return Part(examples=examples, features=values[rows], targets=targets_of(snapshot.classes, examples))


def _refuse_ruins(material: Material) -> None:
    present = {int(target) for target in material.train.targets}
    wanted = {example.label for example in material.snapshot.examples}
    missing = sorted(name for name in wanted if material.snapshot.classes.index(name) not in present)
    if missing:
        raise errors.SnapshotInvalid(
            f"No image of {', '.join(missing[:5])} can be read for training; the first of {len(material.lost)} lost "
            f"is {material.lost[0].reference}: {material.lost[0].reason}."
            if material.lost
            else f"No image of {', '.join(missing[:5])} is in the train split; label more of them."
        )
