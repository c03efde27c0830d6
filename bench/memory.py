"""Takes a running stack. Gives the resident memory of each of its processes and their children, in megabytes."""

import os
from pathlib import Path

from worker.stack import Stack


def of(stack: Stack) -> dict[str, float]:
    """Measure every part and every process below it."""
    sizes = {}
    for part in stack.parts:
        sizes[part.name] = _resident_mb(part.process.pid)
        children = sorted((_resident_mb(pid) for pid in _children(part.process.pid)), reverse=True)
        if children:
            sizes[f"{part.name}, its child"] = children[0]
    return sizes


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def own() -> float:
    """Measure this process."""
    return _resident_mb(os.getpid())
