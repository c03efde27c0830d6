"""Takes a version, or a network on its way to be one. Gives what it answers on labelled images, and what that is worth.

Knows nothing of verdicts. Answers come from cached features, so a backbone that was asked before is not asked again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from db import registry
from pipeline import checkpoints
from pipeline.cards import Card
from pipeline.learning import evaluation, gate, heads, layers, snapshots
from pipeline.learning.layers import Layers
from pipeline.learning.snapshots import Example, Snapshot
from pipeline.preprocess import Preprocess
from worker.learning.material import features_of
from worker.learning.watch import Pace
from worker.learning.workshop import Workshop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What a version says of some labelled images."""

    #: `model:number`
    version: str
    card: Card
    #: images that could be read
    examples: tuple[Example, ...]
    #: fp32 [N, C]; columns of removed classes are minus infinity
    logits: Tensor

    def measured(self, snapshot: Snapshot, *, seconds_per_image: float | None = None) -> gate.Measured:
        """Give them as the gate wants them."""
        return gate.Measured(
            version=self.version,
            classes=self.card.classes,
            logits=self.logits,
            temperature=self.card.temperature,
            test_digest=digest(snapshot, self.examples),
            preprocess_digest=self.card.preprocess.digest(),
            seconds_per_image=seconds_per_image,
        )


def answers(workshop: Workshop, pace: Pace, version: registry.Version, examples: Sequence[Example]) -> Answers:
    """Ask a registered version. Raises `CheckpointBroken`, `StoreUnreachable`, `ArchitectureUnknown`."""
    loaded = checkpoints.load(version.reference, sha256=version.sha256, device=workshop.device)
    found = layers.layers(loaded.network, loaded.card.preprocess.crop_size)
    logits, kept = logits_of(workshop, pace, loaded.network, found, loaded.card.preprocess, examples)
    masked = evaluation.mask(logits, loaded.card.masked_numbers)
    return Answers(version=version.name, card=loaded.card, examples=kept, logits=masked)


def logits_of(
    workshop: Workshop,
    pace: Pace,
    network: nn.Module,
    found: Layers,
    preprocess: Preprocess,
    examples: Sequence[Example],
) -> tuple[Tensor, tuple[Example, ...]]:
    """Give logits [N, C] of the examples that can be read, and those examples."""
    values, kept, _ = features_of(workshop, pace, network, found, preprocess, examples)
    return heads.logits(heads.of(network, found), values), kept


def digest(snapshot: Snapshot, examples: Sequence[Example]) -> str:
    """Give the digest of these test images and their labels: equal ones were asked and marked alike."""
    return snapshots.collect(snapshot.classes, examples, removed=snapshot.removed).test_digest()
