"""Takes nothing. Gives the errors of this package, in one tree.

    PipelineError
    ├── ItemError              one image's fault: becomes a failed outcome, never stops its neighbours
    │   ├── ItemUnfetchable    stage "fetch"
    │   └── ImageUnreadable    stage "decode"
    ├── CheckpointBroken       what the checkpoint holds is not what it promises
    ├── StoreUnreachable       the store did not answer; trying again may help
    ├── WeightsDoNotFit        carries the report of what differs
    ├── WeightsUnreachable
    ├── ArchitectureUnknown
    ├── ClassesInvalid
    ├── PreprocessInvalid
    ├── DeviceUnavailable
    ├── DecoderUnavailable
    ├── SnapshotInvalid        the labels are not enough, or not fit, to learn from
    ├── RecipeInvalid          an unknown name, or two options that exclude each other
    ├── TrainingDiverged       the loss is not a number any more
    └── GateInvalid            champion and challenger were not measured on the same thing

Knows nothing of who catches them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.state_dicts import MatchReport


class PipelineError(Exception):
    """Something went wrong in the pipeline."""

    def __init__(self, message: str = "") -> None:
        # A sentence may quote what was read: with half a character in it, nobody could print or store it.
        super().__init__((message or type(self).__doc__ or "").encode(errors="replace").decode())


class ItemError(PipelineError):
    """The image could not be classified."""

    #: where it failed: "fetch", "decode", "forward" or "load"
    stage: str = "forward"

    def __init__(self, kind: str, message: str = "", *, stage: str = "") -> None:
        super().__init__(message)
        #: what happened, as a snake_case fact a program can match on
        self.kind = kind
        #: what happened, as one sentence for a user
        self.message = str(self)
        self.stage = stage or type(self).stage

    def __reduce__(self) -> tuple[type[ItemError], tuple[str, str], dict[str, str]]:
        return type(self), (self.kind, self.message), {"stage": self.stage}


class ItemUnfetchable(ItemError):
    """The image could not be fetched."""

    stage = "fetch"


class ImageUnreadable(ItemError):
    """The file could not be read as an image."""

    stage = "decode"


class CheckpointBroken(PipelineError):
    """The checkpoint does not hold what it promises; import or train it again."""


class StoreUnreachable(PipelineError):
    """The store did not answer; check its address and credentials, then try again."""


class WeightsDoNotFit(PipelineError):
    """The weights do not fit the network; check the architecture and the number of classes."""

    def __init__(self, report: MatchReport) -> None:
        super().__init__(report.summary())
        self.report = report

    def __reduce__(self) -> tuple[type[WeightsDoNotFit], tuple[MatchReport]]:
        return type(self), (self.report,)


class WeightsUnreachable(PipelineError):
    """The published weights could not be downloaded; give a weights file instead."""


class ArchitectureUnknown(PipelineError):
    """No architecture has this name; give one of torchvision's or timm's, or package.module:factory."""


class ClassesInvalid(PipelineError):
    """The classes must be unique, non-empty names, one for each output of the network."""


class PreprocessInvalid(PipelineError, ValueError):
    """The preprocessing does not say how an image becomes pixels."""


class DeviceUnavailable(PipelineError):
    """The device is not available here; choose auto or cpu."""


class DecoderUnavailable(PipelineError):
    """The decoder is not installed here; choose auto or pillow."""


class SnapshotInvalid(PipelineError):
    """The labels are not enough to learn from; add more and try again."""


class RecipeInvalid(PipelineError, ValueError):
    """The recipe names something unknown, or two options that exclude each other."""


class TrainingDiverged(PipelineError):
    """The loss is not a number any more; lower the learning rate or train in fp32."""


class GateInvalid(PipelineError):
    """Champion and challenger were not measured on the same images, so they cannot be compared."""
