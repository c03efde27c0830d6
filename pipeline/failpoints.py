"""Takes the name of a place in our code. Lets a test kill, stop or fail the process exactly there.

Knows nothing of what happens at the place; docs/reliability.md lists them. Without `IMAGEMILL_TEST_FAILPOINTS` in the
environment nothing ever happens.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

#: folder in which a test arms a place: a file of its name, holding "kill", "stop", "fail", "exhaust" or "sleep SECONDS"
FOLDER = os.environ.get("IMAGEMILL_TEST_FAILPOINTS")


def reach(place: str) -> None:
    """Do what the test that armed this place wants, once: the file is taken away first, by one process alone."""
    if FOLDER:
        _act(Path(FOLDER, place))


def _act(armed: Path) -> None:
    try:
        action, _, argument = armed.read_text().partition(" ")
        armed.unlink()
    except FileNotFoundError:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "sleep":
        time.sleep(float(argument))
    elif action == "exhaust":
        raise MemoryError(f"The failpoint {armed.name} was armed with {action!r}.")
    else:
        raise OSError(f"The failpoint {armed.name} was armed with {action!r}.")
