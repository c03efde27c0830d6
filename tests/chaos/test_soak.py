"""Minutes of work under random faults: nothing is lost, and no process grows."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests import servers
from tests.chaos import rows, trials
from tests.chaos.trials import Trial
from worker.settings import embedded_socket

#: seconds of faults
SOAK_S = float(os.environ.get("IMAGEMILL_TEST_SOAK_S", "600"))
#: items that come meanwhile, at an even pace: 20,000 in ten minutes
ITEMS_PER_S = 20_000 / 600
ITEMS_PER_JOB = 10
#: seconds between two faults, at least and at most
PAUSES_S = (8.0, 16.0)
SEED = 20_261_124
#: parts that no fault kills, so that their memory can be watched
WATCHED = ("intake", "classify", "upkeep", "beat")
MIB = 1024 * 1024


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_soak_under_random_faults_loses_nothing_and_nothing_grows(home: Path) -> None:
    draw = random.Random(SEED)
    num_jobs = round(SOAK_S * ITEMS_PER_S / ITEMS_PER_JOB)
    with servers.postgres(os.environ.get("IMAGEMILL_TEST_POSTGRES", "")) as server:
        server.execute("CREATE DATABASE mill")
        with trials.opened(home, database_url=server.url("mill"), processes=2) as mill, trials.trial(mill) as trial:
            faults = _faults(trial, server, draw)
            jobs = [references * ITEMS_PER_JOB for references in trial.slow(num_jobs)]
            trial.submit(jobs, every_s=SOAK_S * trials.NUM_CALLERS / num_jobs)
            sizes: dict[str, list[tuple[float, float]]] = {name: [] for name in WATCHED}
            ends_s = time.monotonic() + SOAK_S
            while time.monotonic() < ends_s:
                trial.wait(draw.uniform(*PAUSES_S))
                _measure(trial, sizes)
                faults[draw.choice(sorted(faults))]()
            trial.drain(patience_s=300)
            row = trial.row("soak", _described(), note=f"{trial.ended()}; {_growth(trial, sizes)}")
            rows.check(row)


def _described() -> str:
    faults = "rows 1, 6, 9, 16 (5 s) by turns drawn with a seed"
    return f"{SOAK_S / 60:g} minutes of {faults}, two workers"


def _faults(trial: Trial, server: servers.Postgres, draw: random.Random) -> dict[str, Callable[[], None]]:
    """Give what may happen, by the row that it is alone in."""

    def kill_worker() -> None:
        trial.kill(trial.mill.part("classify-2"), whole=draw.random() < 0.5)

    def kill_redis() -> None:
        trial.kill_redis()
        trial.wait(draw.uniform(1, 4))
        trial.start_redis()

    def cut_connections() -> None:
        with redis.Redis(unix_socket_path=str(embedded_socket(trial.mill.settings.home))) as admin:
            trial.fault()
            for kind in ("normal", "pubsub"):
                admin.client_kill_filter(_type=kind)

    def stop_postgres() -> None:
        trial.fault()
        server.stop()
        trial.wait(5)
        server.start()

    return {"1": kill_worker, "6": kill_redis, "9": cut_connections, "16": stop_postgres}


def _measure(trial: Trial, sizes: dict[str, list[tuple[float, float]]]) -> None:
    """Note the memory of each watched part with its children, in MiB, by the minute."""
    for name, seen in sizes.items():
        process_ids = trials.members(trial.mill.part(name).process.pid)
        seen.append((time.monotonic() / 60, sum(map(_resident_bytes, process_ids)) / MIB))


def _resident_bytes(process_id: int) -> int:
    try:
        num_pages = Path(f"/proc/{process_id}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(num_pages) * os.sysconf("SC_PAGE_SIZE")


def _growth(trial: Trial, sizes: dict[str, list[tuple[float, float]]]) -> str:
    """Say how the memory of parts that never ended grew, by a line through the second half of what was seen."""
    whole = {name: _slope(seen[len(seen) // 2 :]) for name, seen in sizes.items() if not trial.restarts[name]}
    return "memory per minute: " + ", ".join(f"{name} {slope:+.1f} MiB" for name, slope in whole.items())


def _slope(points: list[tuple[float, float]]) -> float:
    """Give the slope of the line of least squares."""
    middle_x, middle_y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0
