"""Two classify workers on one machine: they share a job, follow a promotion, and outlive each other."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from db import session, workers
from tests.mills import Mill, await_until, open_mill
from worker import versions

NUM = 3000


def test_two_workers_share_a_job_follow_a_promotion_and_one_outlives_the_other(home: Path) -> None:
    with open_mill(home, processes=2, shard_size=8, sitting_s=1.0) as mill:
        await_until(lambda: len(classifiers(mill)) == 2, "both workers serve")
        references = mill.write_images(10, prefix="pair") * (NUM // 10)
        whole(mill, mill.client.submit(references, model="tiny").job_id)
        for name in ("classify", "classify-2"):
            assert "items (0 failed)" in (mill.stack.logs / f"{name}.log").read_text()

        new = mill.make_version("tiny", seed=2, serve=False)
        versions.promote(mill.sessions, new.name, reason="test")
        await_until(lambda: all(new.name in one.warm for one in classifiers(mill)), "both hold the new version warm")

        jobs = [mill.client.submit(references, model="tiny").job_id for _ in range(3)]
        os.kill(classifiers(mill)[0].pid, signal.SIGKILL)
        for job in jobs:
            whole(mill, job)


def whole(mill: Mill, job_id: str) -> None:
    """Check that the job ends with one outcome for each item."""
    status = mill.client.wait(job_id, timeout_s=60)
    assert (status.state, status.num_succeeded) == ("succeeded", NUM)
    positions = mill.positions(job_id)
    assert (len(positions), set(positions.values())) == (NUM, {1})


def classifiers(mill: Mill) -> Sequence[workers.Alive]:
    """List the workers that serve."""
    with session.reading(mill.sessions) as reading:
        return [one for one in workers.list_alive(reading, within_s=10.0) if one.role == "classify"]
