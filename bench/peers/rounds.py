"""Takes a contender and its task. Gives timed rounds over stdin and stdout: "go" runs one, the end of input ends it.

A line of JSON answers each line; with `rounds` in the task, all are run at once and one line answers. Whatever else
the process prints goes to stderr. Knows nothing of how a contender classifies.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

#: answers shown to the caller, who compares them with those of others
NUM_SHOWN = 50

#: of one image, best first: (label, probability)
Answer = list[tuple[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every contender is asked to do."""

    #: paths
    images: list[str]
    arch: str
    num_classes: int
    #: file of a state_dict
    weights: str
    #: that may be used
    cores: int
    #: run at once; 0 waits for "go"
    rounds: int = 0
    #: where outcomes are recorded, by those who record; None makes a SQLite file
    database: str | None = None
    #: batch sizes, threads and the like that differ from the contender's own choice
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """One round's answers, in the order of the images."""

    answers: list[Answer]
    #: seconds of the round in which the contender only started or stopped itself: not counted against it
    uncounted_s: float = 0.0


Round = Callable[[], Classified]
Contender = Callable[[Task], AbstractContextManager[Round]]


def main(contender: Contender) -> int:
    """Run a contender's program: its one argument is a task in JSON, or a file that holds one."""
    given = sys.argv[1]
    task = Task(**json.loads(given if given.lstrip().startswith("{") else Path(given).read_text()))
    with _quiet_stdout() as out, contender(task) as classify:
        if task.rounds:
            _say(out, _ran(task, classify, task.rounds))
            return 0
        _say(out, {"ready": True})
        for line in sys.stdin:
            if line.strip() == "go":
                _say(out, _ran(task, classify, 1))
    return 0


def _ran(task: Task, classify: Round, num_rounds: int) -> dict[str, object]:
    seconds = []
    for _ in range(num_rounds):
        started_s = time.perf_counter()
        classified = classify()
        seconds.append(time.perf_counter() - started_s - classified.uncounted_s)
    if len(classified.answers) != len(task.images):
        raise RuntimeError(f"{len(classified.answers)} answers to {len(task.images)} images.")
    top1 = [answer[0][0] for answer in classified.answers[:NUM_SHOWN]]
    return {"images": len(task.images), "seconds": seconds, "uncounted_s": classified.uncounted_s, "top1": top1}


def _quiet_stdout() -> IO[str]:
    """Keep stdout for our lines alone: what a library or a child prints goes to stderr."""
    ours = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return ours


def _say(out: IO[str], line: Mapping[str, object]) -> None:
    out.write(json.dumps(line) + "\n")
    out.flush()
