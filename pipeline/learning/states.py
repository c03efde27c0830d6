"""Takes tensors and plain values.

Gives them back from a file, whole or not at all, whatever happens while they are written.
Knows nothing of what they mean.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pipeline import failpoints, stores

#: the state to go on from, and the best network so far, which is written only when it changes
STATE, BEST = "state.pt", "best-{number:05}.pt"


def state_file(folder: Path) -> Path:
    """Name the file of a run's state."""
    return folder / STATE


def best_file(folder: Path, number: int) -> Path:
    """Name the file of the best network, by its epoch: the state before it still needs the one before it."""
    return folder / BEST.format(number=number)


def keep_best(folder: Path, number: int) -> None:
    """Remove every best network but that of this epoch; call it when the state that names it is written."""
    for file in folder.glob("best-*.pt"):
        if file != best_file(folder, number):
            file.unlink(missing_ok=True)


def save(file: Path, content: Mapping[str, object]) -> None:
    """Write tensors and plain values to a file, whole or not at all; raise OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with stores.written(file) as opened:
        _write(opened, content)
        failpoints.reach("mid_state_write")
    failpoints.reach("after_state_rename")


def load(file: Path) -> dict[str, Any] | None:
    """Read what `save` wrote, without running code that may be in it; None if it is damaged or gone."""
    try:
        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError):
        return None
    return found


class _Remembering:
    """A file that remembers why it could not be written: torch.save gives a RuntimeError about a position."""

    def __init__(self, opened: BinaryIO) -> None:
        self.error: OSError | None = None
        self._opened = opened

    def write(self, data: bytes) -> int:
        try:
            return self._opened.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._opened.flush()


def _write(opened: BinaryIO, content: Mapping[str, object]) -> None:
    target = _Remembering(opened)
    try:
        torch.save(dict(content), target)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise (target.error or error) from error
