"""Takes a folder of a store. Gives its files with their sizes and ages, and removes one unless somebody wants it again.

Whoever is about to name a file holds it first: it is young from then on, and a young file is never removed. On this
machine that is exact: a file is put aside, looked at again, and put back if it was held meanwhile; one that a killed
process had put aside is put back. In a remote store a file is held by writing it anew, and looked at right before it is
removed.

Knows nothing of what is in the files, or of who names them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline import stores
from pipeline.errors import StoreUnreachable

#: what a file is called while it is put aside: its name between a dot and a word of the remover's own
_ASIDE = ".{name}.{word}"
#: how such a word begins: a word of hex digits alone is of a writer that is not done, in `stores`
_REMOVER = "aside-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One file of a store."""

    address: str
    num_bytes: int
    #: epoch seconds by the store's clock: when it was last written, or held
    at_s: float

    @property
    def name(self) -> str:
        """Its name in its folder."""
        return self.address.rpartition("/")[2]


def files(address: str) -> Iterator[Stored]:
    """List the files below a folder, if there is one, and put back what was put aside; raise StoreUnreachable."""
    filesystem, folder = stores.open_store(address)
    try:
        for parent, _, found in filesystem.walk(folder, detail=True):
            for name, about in found.items():
                if name.startswith("."):
                    _put_back(filesystem, f"{parent}/{name}")
                else:
                    path = f"{parent}/{name}".removeprefix(f"{folder}/")
                    yield Stored(address=f"{address}/{path}", num_bytes=about["size"], at_s=_written_at_s(about))
    except FileNotFoundError:
        return
    except Exception as error:  # every driver brings its own family (botocore, aiohttp, ...)
        raise StoreUnreachable(f"{address} could not be listed: {error}.") from error


def hold(address: str, num_bytes: int | None = None) -> bool:
    """Make a file young, so that nobody removes it; False if it has to be written (again) for that.

    That is so where there is none, where it has another size than `num_bytes`, and in a remote store.
    """
    filesystem, file = stores.open_store(address)
    if not isinstance(filesystem, LocalFileSystem):
        return False
    try:
        os.utime(file)
        return num_bytes is None or Path(file).stat().st_size == num_bytes
    except OSError:
        return False


def hold_again(address: str) -> None:
    """Make a file young that somebody is about to name, wherever it lies; one that is not there stays so."""
    filesystem, file = stores.open_store(address)
    if isinstance(filesystem, LocalFileSystem):
        hold(address)
        return
    try:
        filesystem.pipe_file(file, filesystem.cat_file(file))
    except FileNotFoundError:
        return
    except Exception as error:  # as above
        raise StoreUnreachable(f"{address} could not be written: {error}.") from error


def remove(address: str, *, before_s: float) -> bool:
    """Remove a file that was neither written nor held since `before_s`; False if it stays. Raise StoreUnreachable."""
    filesystem, file = stores.open_store(address)
    try:
        if isinstance(filesystem, LocalFileSystem):
            return _remove_here(Path(file), before_s)
        if _written_at_s(filesystem.info(file, refresh=True)) >= before_s:
            return False
        filesystem.rm_file(file)
        return True
    except FileNotFoundError:
        return False
    except Exception as error:  # as above
        raise StoreUnreachable(f"{address} could not be removed: {error}.") from error


def _remove_here(file: Path, before_s: float) -> bool:
    aside = file.with_name(_ASIDE.format(name=file.name, word=_REMOVER + secrets.token_hex(8)))
    file.rename(aside)
    # Whoever held it before that made this very file young; whoever comes later finds none and writes it.
    if aside.stat().st_mtime >= before_s:
        _link_back(aside, file)
        return False
    aside.unlink()
    return True


def _put_back(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    aside = Path(path)
    name, _, word = aside.name.removeprefix(".").rpartition(".")
    if isinstance(filesystem, LocalFileSystem) and name and word.startswith(_REMOVER):
        _link_back(aside, aside.with_name(name))


def _link_back(aside: Path, file: Path) -> None:
    with suppress(FileExistsError, FileNotFoundError):
        file.hardlink_to(aside)
    aside.unlink(missing_ok=True)


def _written_at_s(about: dict[str, object]) -> float:
    """Read when a file was written, as drivers tell it: the local one in seconds, S3 and others as a moment."""
    for name in ("mtime", "LastModified", "last_modified", "modified", "created"):
        told = about.get(name)
        if isinstance(told, int | float):
            return float(told)
        if isinstance(told, datetime):
            return told.timestamp()
    # Who does not tell a file's age keeps it for ever.
    return float("inf")
