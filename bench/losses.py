"""Takes a seed. Gives what 20 kills of a worker under load cost imagemill and its peers: jobs lost, and done twice.

One loop for all: send some jobs, SIGKILL one of two workers when a random number of them is done, start it again; in
the end wait until nothing more is recorded. `python -m bench.losses --json losses.json`; a file that is there keeps the
rows of queues that are not asked for, and all rows go into docs/reliability.md. No kill waits for more than `START_S`
and `STALL_S`, nor the end for more than `--patience-s` without a new record: a queue takes some 5 minutes, 26 at most.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import queues, rows
from bench.peers import environments
from bench.queues import PEERS, Queue, Seen
from bench.report import write_between
from worker.cli import output

QUEUES = ("imagemill", *PEERS)
PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGINS, ENDS = "<!-- written by bench.losses: begins -->", "<!-- written by bench.losses: ends -->"
#: seconds a worker may take to start
START_S = 60.0
#: seconds that a few jobs may take until some of them are recorded; then the kill comes all the same
STALL_S = 10.0
#: seconds that RQ takes to find a job whose worker died, at most
PATIENCE_S = 180.0
#: seconds between two looks
LOOK_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of the jobs of one queue."""

    queue: str
    settings: str
    kills: int
    #: jobs that were acknowledged, and those of them that were recorded
    submitted: int
    recorded: int
    #: times that work was begun beyond the first of a job
    executed_again: int
    #: records beyond the first of a job
    recorded_again: int
    #: by kill: seconds until all that was acknowledged before it, and is recorded at all, was recorded
    recovery_s: Sequence[float]

    @property
    def lost(self) -> int:
        """Jobs that were acknowledged and never recorded."""
        return self.submitted - self.recorded


def main() -> int:
    """Run each queue's loop, print the table, and write it."""
    asked = _arguments()
    found: list[Row] = []
    for name in asked.queues:
        with queues.running(name, asked.environments) as queue:
            found.append(_ran(queue, asked))
    kept = _kept(asked.json, {row.queue.split()[0] for row in found})
    _show([*kept, *found])
    if asked.json:
        told = {"machine": rows.machine(), "seed": asked.seed, "rows": [_as_json(row) for row in [*kept, *found]]}
        asked.json.write_text(json.dumps(told, indent=2))
        write_between(asked.page, BEGINS, ENDS, table([*kept, *found]))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.losses", description="Kill workers under load, and count.")
    parser.add_argument("--queues", nargs="+", choices=QUEUES, default=QUEUES, metavar="QUEUE", help=", ".join(QUEUES))
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of one of two workers")
    parser.add_argument("--jobs", type=int, default=3000, help="jobs in all")
    parser.add_argument("--seed", type=int, default=0, help="chooses whom to kill, and when")
    parser.add_argument(
        "--patience-s", type=float, default=PATIENCE_S, help="without a new record, after which a job counts as lost"
    )
    parser.add_argument("--environments", type=Path, default=environments.CACHE, metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the rows, and write the page's table")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table stands")
    return parser.parse_args()


def _ran(queue: Queue, asked: argparse.Namespace) -> Row:
    chance = random.Random(asked.seed)  # noqa: S311 - no secret, a seed
    num_sent = asked.jobs // asked.kills
    killed_at_s = []
    with queue.sender() as sender:
        for number in range(asked.kills):
            output.errors().print(f"{queue.name}: kill {number + 1} of {asked.kills} ...")
            _await(queue.is_ready, START_S)
            enough = queue.num_recorded() + chance.randint(1, num_sent // 2)
            sender.stdin.write(f"{num_sent}\n")
            sender.stdin.flush()
            _await(lambda enough=enough: queue.num_recorded() >= enough, STALL_S)
            queue.kill(chance.randrange(queues.NUM_WORKERS))
            killed_at_s.append(time.time())
            sender.stdout.readline()
        sender.stdin.close()
    _drain(queue, asked.patience_s)
    return _row(queue, queue.seen(), killed_at_s)


def _await(fact: Callable[[], bool], patience_s: float) -> None:
    give_up_s = time.monotonic() + patience_s
    while not fact() and time.monotonic() < give_up_s:
        time.sleep(LOOK_S)


def _drain(queue: Queue, patience_s: float) -> None:
    """Wait until every job that was sent is recorded, or none has been for long."""
    num_before, give_up_s = -1, time.monotonic()
    while True:
        seen = queue.seen()
        if seen.sent.keys() <= seen.recorded.keys():
            return
        if len(seen.recorded) > num_before:
            num_before, give_up_s = len(seen.recorded), time.monotonic() + patience_s
        if time.monotonic() > give_up_s:
            return
        time.sleep(0.5)


def _row(queue: Queue, seen: Seen, killed_at_s: Sequence[float]) -> Row:
    first_s = {job: min(seen.recorded[job]) for job in seen.sent if job in seen.recorded}
    return Row(
        queue=queue.name,
        settings=queue.settings,
        kills=len(killed_at_s),
        submitted=len(seen.sent),
        recorded=len(first_s),
        executed_again=sum(num - 1 for job, num in seen.begun.items() if job in seen.sent),
        recorded_again=sum(len(times) - 1 for job, times in seen.recorded.items() if job in seen.sent),
        recovery_s=tuple(
            max((at_s - kill_s for job, at_s in first_s.items() if seen.sent[job] <= kill_s < at_s), default=0.0)
            for kill_s in killed_at_s
        ),
    )


def _as_json(row: Row) -> dict[str, object]:
    return {**asdict(row), "lost": row.lost}


def _kept(file: Path | None, measured: set[str]) -> list[Row]:
    """Read the rows of a file whose queues were not measured now."""
    if file is None or not file.exists():
        return []
    told = json.loads(file.read_text())["rows"]
    fields = Row.__dataclass_fields__
    found = [{name: value for name, value in row.items() if name in fields} for row in told]
    return [Row(**row) for row in found if row["queue"].split()[0] not in measured]


def table(found: Sequence[Row]) -> Iterator[str]:
    """Give the lines of the page's table."""
    yield "\n| queue | kills | submitted | recorded | lost | executed again | recorded again | recovery p50, most |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in sorted(found, key=lambda row: row.queue):
        recovery = f"{statistics.median(row.recovery_s):.1f} s, {max(row.recovery_s):.1f} s"
        counts = (row.kills, row.submitted, row.recorded, row.lost, row.executed_again, row.recorded_again)
        yield f"| {row.queue} | {' | '.join(f'{count:,}' for count in counts)} | {recovery} |"
    yield ""


def _show(found: Sequence[Row]) -> None:
    output.table(
        "\nKilled workers",
        ("queue", "kills", "submitted", "recorded", "lost", "executed again", "recorded again", "recovery p50", "most"),
        (
            (
                row.queue, row.kills, row.submitted, row.recorded, row.lost, row.executed_again, row.recorded_again,
                f"{statistics.median(row.recovery_s):.1f} s", f"{max(row.recovery_s):.1f} s",
            )
            for row in found
        ),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
