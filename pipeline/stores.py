"""Takes the address of a folder in a store (file://, s3:// or any scheme fsspec knows).

Gives a way to write its files so that a crash leaves all of them or none, and to have them as local files.
Knows nothing of what is in the files.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline import failpoints
from pipeline.errors import StoreUnreachable

#: read at once of a file that may be large
PIECE_BYTES = 1 << 20
#: what a folder or a file is called until it is whole: its name between a dot and a word of its writer's own
_TEMPORARY = ".{name}.{word}"
#: seconds after which what a killed writer left is removed: no folder takes that long to be written
ABANDONED_S = 3600.0


def write_folder(address: str, contents: Mapping[str, bytes]) -> None:
    """Write the files in the order given, so that the last one proves the others are there.

    On this machine the folder appears whole, by a rename; a folder that is there already stays as it is.
    Raise StoreUnreachable.
    """
    filesystem, folder = open_store(address)
    try:
        if isinstance(filesystem, LocalFileSystem):
            _write_and_rename(Path(folder), contents)
        else:
            for name, data in contents.items():
                filesystem.pipe_file(f"{folder}/{name}", data)
    except Exception as error:  # every driver brings its own family (botocore, aiohttp, ...)
        raise StoreUnreachable(f"{address} could not be written: {error}.") from error


def read_file(address: str, name: str) -> bytes | None:
    """Give the bytes of one file, None where there is none; raise StoreUnreachable."""
    filesystem, folder = open_store(address)
    try:
        return bytes(filesystem.cat_file(f"{folder}/{name}"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # as above
        raise StoreUnreachable(f"{address}/{name} could not be read: {error}.") from error


@contextmanager
def written(file: Path) -> Iterator[BinaryIO]:
    """Open a file of this machine to be written whole or not at all, over what may be there; raise OSError."""
    # By a word of our own: a process id is another process's too, in the next container.
    temporary = file.with_name(_TEMPORARY.format(name=file.name, word=secrets.token_hex(8)))
    try:
        with temporary.open("xb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def open_file(address: str) -> Iterator[BinaryIO | None]:
    """Open one file for reading a piece at a time, None where there is none; raise StoreUnreachable."""
    filesystem, file = open_store(address)
    try:
        opened = filesystem.open(file, "rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        yield None
        return
    except Exception as error:  # as above
        raise StoreUnreachable(f"{address} could not be read: {error}.") from error
    with opened:
        yield opened


def hash_file(address: str, name: str) -> str | None:
    """Give the sha256 of one file, in hex, None where there is none; raise StoreUnreachable."""
    with open_file(f"{address}/{name}") as opened:
        if opened is None:
            return None
        try:
            digest = hashlib.sha256()
            while piece := opened.read(PIECE_BYTES):
                digest.update(piece)
        except Exception as error:  # as above
            raise StoreUnreachable(f"{address}/{name} could not be read: {error}.") from error
    return digest.hexdigest()


def copy_in(address: str, source: BinaryIO) -> None:
    """Write one file from a stream, whole or not at all, over what may be there; raise StoreUnreachable."""
    filesystem, file = open_store(address)
    try:
        if isinstance(filesystem, LocalFileSystem):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            with written(Path(file)) as opened:
                shutil.copyfileobj(source, opened, PIECE_BYTES)
            _sync(Path(file).parent)
        else:
            with filesystem.open(file, "wb") as opened:
                shutil.copyfileobj(source, opened, PIECE_BYTES)
    except Exception as error:  # as above
        raise StoreUnreachable(f"{address} could not be written: {error}.") from error


def is_empty(address: str) -> bool:
    """Tell whether there is no file under an address, nor the folder itself; raise StoreUnreachable."""
    filesystem, folder = open_store(address)
    try:
        return next((False for _, _, files in filesystem.walk(folder) if files), True)
    except FileNotFoundError:
        return True
    except Exception as error:  # as above
        raise StoreUnreachable(f"{address} could not be read: {error}.") from error


def remove_folder(address: str) -> None:
    """Remove a folder and all that is in it; raise StoreUnreachable."""
    filesystem, folder = open_store(address)
    try:
        filesystem.rm(folder, recursive=True)
    except Exception as error:  # as above
        raise StoreUnreachable(f"{address} could not be removed: {error}.") from error


@contextmanager
def local_folder(address: str, names: tuple[str, ...]) -> Iterator[Path]:
    """Give a local folder that holds the named files, as far as they exist; raise StoreUnreachable."""
    filesystem, folder = open_store(address)
    if isinstance(filesystem, LocalFileSystem):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="imagemill-") as temporary:
        for name in names:
            data = read_file(address, name)
            if data is not None:
                _write_copy(Path(temporary) / name, data, address)
        yield Path(temporary)


def _write_copy(file: Path, data: bytes, address: str) -> None:
    try:
        file.write_bytes(data)
    except OSError as error:
        raise StoreUnreachable(f"{address} could not be copied to {file.parent}: {error.strerror}.") from error


def open_store(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Give the driver of an address, and what it calls the place; raise StoreUnreachable."""
    try:
        filesystem, folder = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise StoreUnreachable(f"The store of {address} has no driver here: {error}.") from error
    return filesystem, str(folder).rstrip("/")


def _write_and_rename(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    temporary = folder.parent / _TEMPORARY.format(name=folder.name, word=secrets.token_hex(8))
    temporary.mkdir()
    try:
        for name, data in contents.items():
            _write_durably(temporary / name, data)
            failpoints.reach(f"mid_write.{folder.parent.name}")
        _sync(temporary)
        _rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(folder.parent)
    failpoints.reach(f"after_rename.{folder.parent.name}")


def _sweep(parent: Path) -> None:
    """Remove what writers that were killed left here; nobody ever reads it."""
    for left in parent.glob(_TEMPORARY.format(name="*", word="[0-9a-f]" * 16)):
        with suppress(FileNotFoundError):  # another writer sweeps, too
            if left.stat().st_mtime < time.time() - ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)


def _rename(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # somebody else wrote the same content first: theirs stays
            raise


def _write_durably(file: Path, data: bytes) -> None:
    with file.open("xb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
