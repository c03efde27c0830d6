"""Takes a sitting's tally each time something was recorded. Gives what was new in it to the meter.

Knows nothing of how a sitting goes. Once per recording, never per item.
"""

from collections import Counter
from dataclasses import dataclass, field

from worker import measures
from worker.meter import Meter
from worker.sittings import STAGES, Tally


@dataclass(slots=True, kw_only=True)
class SittingMeter:
    """Tells one sitting's progress on one model."""

    meter: Meter
    model: str
    _told: Counter[str] = field(default_factory=Counter)

    def tell(self, tally: Tally, *, total_s: float) -> None:
        """Count what the tally has gained since the last time."""
        add, observe = self.meter.add, self.meter.observe
        num_recorded = self._new("recorded", tally.num_items - tally.num_failed)
        # What is in hand was recalled before it is recorded.
        num_recalled = min(num_recorded, self._new("recalled", tally.num_recalled))
        add(measures.ITEMS, num_recorded - num_recalled, self.model, "succeeded")
        add(measures.ITEMS, num_recalled, self.model, "recalled")
        add(measures.ITEMS, self._new("failed", tally.num_failed), self.model, "failed")
        for stage in STAGES:
            add(measures.STAGE_SECONDS, self._new(stage, getattr(tally, f"{stage}_s")), self.model, stage)
        add(measures.SITTING_SECONDS, self._new("total", total_s), self.model)
        add(measures.LEASES_LOST, self._new("lost", tally.num_lost), self.model)
        for (stage, kind), num in tally.failures.items():
            add(measures.ITEM_FAILURES, num, self.model, stage, kind)
        for job in tally.ended:
            add(measures.JOBS, 1, self.model, job.state)
            if job.finished_at_s is not None:
                observe(measures.JOB_SECONDS, [job.finished_at_s - job.created_at_s], self.model, job.priority)
        for priority, waited_s in tally.waits:
            observe(measures.QUEUE_WAIT, [waited_s], self.model, priority)
        observe(measures.BATCH_FILL, tally.fills, self.model)
        for told in (tally.failures, tally.ended, tally.waits, tally.fills):
            told.clear()

    def _new(self, name: str, now: float) -> float:
        gained = now - self._told[name]
        self._told[name] += gained  # type: ignore[assignment]
        return gained
