"""Takes what several processes need to know to train one network together.

Gives it as a value, to and from JSON, and the names of the files by which they and whoever launched them talk.
Knows nothing of processes, networks or devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import images
from pipeline.learning.recipes import Settled

#: files of the job's folder, beside the state of the run: the job; renewed while the processes may go on; an epoch per
#: line; what they print; what they give in the end
JOB, PERMIT, EPOCHS, LOG, TRAINED = "job.json", "permit", "epochs.jsonl", "processes.log", "trained.pt"
#: one per process that ended by an error it knows, or that lost an image
FAILED, LOST = "failed-{rank}.json", "lost-{rank}.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A labelled image."""

    sha256: str
    reference: str
    #: number of its class
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything the processes need to know, as JSON values and references."""

    #: checkpoint to train from, its head already fitted
    checkpoint: str
    #: of its card
    sha256: str
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    settled: Settled
    seed: int
    #: where references may point
    roots: tuple[str, ...]
    limits: images.Limits
    #: bytes of decoded images kept in memory, over all processes
    max_cache_bytes: int
    #: "cpu" (gloo) or "cuda" (nccl, one device per process)
    device: str
    #: threads that compute, and threads that decode, in each process
    num_threads: int
    #: images in one forward pass; None: as many as the recipe says, shared out
    micro_batch: int | None = None

    def as_dict(self) -> dict[str, object]:
        """Give the fields as JSON values."""
        return {**asdict(self), "settled": self.settled.as_dict()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Job:
        """Read what `as_dict` gave, before or after JSON."""
        limits = images.Limits(**{**given["limits"], "formats": tuple(given["limits"]["formats"])})
        lists = {name: tuple(Item(**row) for row in given[name]) for name in ("train", "val")}
        settled = Settled.from_dict(given["settled"])
        return cls(**{**given, **lists, "limits": limits, "settled": settled, "roots": tuple(given["roots"])})
