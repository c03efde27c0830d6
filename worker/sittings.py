"""Takes nothing. Gives what a sitting works with, and what it did.

Knows nothing of how a sitting goes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

from sqlalchemy.orm import Session, sessionmaker

from db import bells, leases, registry
from pipeline import decoders, images, references
from worker.messages import Notice, Priority
from worker.meter import Meter
from worker.traces import Tracer
from worker.warm import Warm

#: What a sitting spends its time on.
STAGES = ("claim", "fetch", "decode", "forward", "record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """What a sitting works with: everything a classify child owns."""

    owner: str
    sessions: sessionmaker[Session]
    warm: Warm
    #: Threads that fetch and decode.
    pool: Executor
    decoder: decoders.Decoder
    #: Of them, those that read from one host of https:// references at once; 0 is any number.
    per_host: int = 0
    #: Threads that classify, `num_lanes` of them, a batch each.
    lanes: Executor
    num_lanes: int
    roots: references.Roots
    limits: images.Limits
    batch_size: int
    #: Items claimed at once from the shards that wait.
    claim_items: int
    sitting_s: float
    lease_s: float
    max_attempts: int
    #: That its bells may name, beside that of the shard at hand.
    models: tuple[str, ...] = ()
    #: Identical bytes are answered with what the same version recorded of them.
    recalls: bool = False
    #: Tells those who wait for jobs how they ended, after the commit that ended them.
    tell: Callable[[Iterator[Notice]], None] = lambda _: None
    #: Whether this worker is being stopped: others are to have what it has not begun.
    is_stopping: Callable[[], bool] = lambda: False
    #: Versions by id, which never change.
    versions: dict[int, registry.Version] = field(default_factory=dict)
    #: Images/s by model, of late; the heartbeat tells them.
    paces: dict[str, float] = field(default_factory=dict)
    #: What was counted; the heartbeat writes it down.
    meter: Meter = field(default_factory=Meter)
    #: Told how each shard went, where traces are kept.
    tracer: Tracer | None = None
    #: Shards under lease, with their fence tokens; the heartbeat extends them and removes those that were lost.
    held: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a sitting did, with the seconds spent per stage; fetch, decode and forward add up over threads."""

    version: str = ""
    num_shards: int = 0
    num_items: int = 0
    num_failed: int = 0
    num_recalled: int = 0
    num_batches: int = 0
    num_lost: int = 0
    claim_s: float = 0.0
    fetch_s: float = 0.0
    decode_s: float = 0.0
    forward_s: float = 0.0
    record_s: float = 0.0
    total_s: float = 0.0
    #: Shards given back because time was up: whoever sat rings for them, so that they need not await a sweep.
    left: list[bells.Bell] = field(default_factory=list)
    #: What the meter has not been told of yet: seconds that shards waited, shares of batches that were images, failures
    #: by stage and kind, jobs that ended.
    waits: list[tuple[Priority, float]] = field(default_factory=list)
    fills: list[float] = field(default_factory=list)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    ended: list[leases.Ended] = field(default_factory=list)
    #: More of its kind may wait, for which no bell is on its way.
    is_cut_short: bool = False

    def __str__(self) -> str:
        if not self.num_shards:
            return "nothing left to claim"
        of_them = f"{self.num_failed} failed" + f", {self.num_recalled} recalled" * bool(self.num_recalled)
        return (
            f"{self.num_items} items ({of_them}) of {self.num_shards} shards in {self.num_batches} batches "
            f"on {self.version} in {self.total_s:.3f} s: "
            + " ".join(f"{stage} {getattr(self, f'{stage}_s'):.3f}" for stage in STAGES)
        )
