"""Takes a reference (absolute file, file://, https://, s3:// or any scheme fsspec knows) and the allowed roots.

Gives its bytes, or the one sentence that says why not.
Knows nothing of images.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import fsspec

from pipeline import urls
from pipeline.errors import ItemUnfetchable

#: schemes of this machine's files; everything else but https:// goes through fsspec
LOCAL_SCHEMES = ("file", "local")
#: schemes, and spellings, that fsspec would fetch over HTTP without a check of where it leads
INSECURE_SCHEMES = ("http", "https")
#: a FIFO must not block, a terminal must not become ours, a child must not inherit
OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
#: Linux can look at what a name leads to, and then open that: to open a device before it is checked can have effects
LINKS = Path("/proc/self/fd")
LOOK_FLAGS = os.O_PATH | os.O_CLOEXEC if hasattr(os, "O_PATH") and LINKS.exists() else OPEN_FLAGS
#: errno -> (kind, what happened); anything else is "unreadable"
OPEN_ERRORS = {
    errno.ENOENT: ("missing", "There is no such file"),
    errno.ENOTDIR: ("missing", "There is no such file"),
    errno.ENAMETOOLONG: ("missing", "There is no such file: the name is too long"),
    errno.ELOOP: ("missing", "There is no such file: its links run in a circle"),
    errno.ENXIO: ("not_a_file", "It is not a regular file"),
    errno.EACCES: ("unreadable", "The worker may not read it; check its permissions"),
}


#: read at once of a file that is longer than it said
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Where references may point: everything under these prefixes and nothing else."""

    #: absolute directories and URL prefixes, without a trailing slash (but "/" itself)
    prefixes: tuple[str, ...]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Roots:
        """Read absolute directories and URL prefixes; raise ValueError for one that names no place."""
        return cls(prefixes=tuple(_root(text.strip()) for text in texts))

    def local(self) -> tuple[str, ...]:
        """Give the directories of this machine."""
        return tuple(prefix for prefix in self.prefixes if "://" not in prefix)


def is_remote(reference: str) -> bool:
    """Say whether a reference points at another machine, which may take its time."""
    scheme, separator, _ = reference.partition("://")
    return bool(separator) and scheme not in LOCAL_SCHEMES


def host_of(reference: str) -> str | None:
    """Give the host of an https:// reference, which may be slow on its own account; None for all others."""
    return urls.host_of(reference)


def fetch(reference: str, roots: Roots, *, max_bytes: int) -> bytes:
    """Read what `reference` points at, at most `max_bytes`; raise ItemUnfetchable."""
    if "\0" in reference:
        raise ItemUnfetchable("unreadable", "The reference contains a NUL character.")
    scheme, separator, rest = reference.partition("://")
    if not separator:
        data = _fetch_local(reference, roots, max_bytes)
    elif scheme in LOCAL_SCHEMES:
        data = _fetch_local(_local_file(rest), roots, max_bytes)
    else:
        data = _fetch_remote(reference, scheme, roots, max_bytes)
    if not data:
        raise ItemUnfetchable("empty", "The file is empty.")
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


# ---------------------------------------------------------------- this machine's files


def _fetch_local(file: str, roots: Roots, max_bytes: int) -> bytes:
    if not file.startswith("/"):
        raise ItemUnfetchable("outside_roots", "The reference is relative; give an absolute file or a URL.")
    allowed = roots.local()
    # Blatant cases are refused without a look.
    named = os.path.normpath(file)
    if not _is_under(named, allowed) and not _is_under(named, _real(allowed)):
        raise _outside_roots()
    looking = _open(file, LOOK_FLAGS)
    try:
        # From here on what was found counts, not its name: no link or `..` can be swapped in between.
        real = _real_file(looking, file)
        # A root that is no link itself is its own real name, which spares most files the look.
        if not (real == named and _is_under(real, allowed)) and not _is_under(real, _real(allowed)):
            raise _outside_roots()
        facts = os.fstat(looking)
        if not stat.S_ISREG(facts.st_mode):
            raise ItemUnfetchable("not_a_file", "It is not a regular file.")
        if facts.st_size > max_bytes:
            raise _too_large(max_bytes)
        return _read_found(looking, facts.st_size, max_bytes)
    finally:
        os.close(looking)


def _read_found(looking: int, size: int, max_bytes: int) -> bytes:
    descriptor = os.dup(looking) if LOOK_FLAGS == OPEN_FLAGS else _open(f"{LINKS}/{looking}", OPEN_FLAGS)
    try:
        # What its size says in one go, then whatever it has grown by: a large buffer for a small file costs more.
        return _read(descriptor, size + 1, max_bytes + 1)
    finally:
        os.close(descriptor)


def _open(file: str, flags: int) -> int:
    try:
        return os.open(file, flags)
    except OSError as error:
        kind, fact = OPEN_ERRORS.get(error.errno or 0, ("unreadable", f"It could not be opened: {error.strerror}"))
        raise ItemUnfetchable(kind, f"{fact}.") from error
    except ValueError as error:  # characters that no file name can hold
        raise ItemUnfetchable("missing", "There is no such file: the name is not valid text.") from error


def _real(roots: Iterable[str]) -> tuple[str, ...]:
    real = []
    for root in roots:
        with suppress(OSError):  # a root that is being replaced allows nothing for the moment
            real.append(os.path.realpath(root))
    return tuple(real)


def _read(descriptor: int, expected: int, most: int) -> bytes:
    """Read to the end, `most` bytes at most; `expected` come in one go."""
    chunks = []
    try:
        while most > 0 and (chunk := os.read(descriptor, min(most, expected))):
            chunks.append(chunk)
            most -= len(chunk)
            expected = CHUNK_BYTES
    except OSError as error:
        raise ItemUnfetchable("unreadable", f"It could not be read: {error.strerror}.") from error
    return b"".join(chunks)


def _real_file(descriptor: int, file: str) -> str:
    try:
        return os.readlink(f"{LINKS}/{descriptor}")  # noqa: PTH115 - this is done for every image
    except OSError:  # no /proc: the name is the next best thing
        return os.path.realpath(file)


def _local_file(rest: str) -> str:
    # `?` and `#` are ordinary characters of file names here, so no URL parser.
    host, slash, file = rest.partition("/")
    if host not in ("", "localhost"):
        raise ItemUnfetchable("outside_roots", "A file:// reference must not name another host.")
    file = unquote(slash + file, errors="surrogateescape")
    if "\0" in file:
        raise ItemUnfetchable("unreadable", "The reference contains a NUL character.")
    return file


# ---------------------------------------------------------------- other stores


def _fetch_remote(reference: str, scheme: str, roots: Roots, max_bytes: int) -> bytes:
    schemes = {prefix.partition("://")[0] for prefix in roots.prefixes if "://" in prefix}
    # "::" chains filesystems in fsspec (zip://x::file:///...): a way around the roots.
    if scheme not in schemes or ("::" in reference and scheme != urls.SCHEME):
        raise ItemUnfetchable(
            "unsupported_scheme",
            f"References with {scheme[:40]}:// are not allowed here; ask for a root that has it.",
        )
    if scheme == urls.SCHEME:
        return urls.fetch(reference, roots.prefixes, max_bytes=max_bytes)
    # Decoded as well, because a server may decode `%2e%2e` after us.
    parts = {*reference.split("/"), *unquote(reference).split("/")}
    if parts & {".", ".."} or not _is_under(reference, roots.prefixes):
        raise _outside_roots()
    try:
        filesystem, key = fsspec.core.url_to_fs(reference)
    except (ImportError, ValueError) as error:
        raise ItemUnfetchable("unsupported_scheme", f"The driver for {scheme}:// is not installed.") from error
    return _cat(filesystem, key, max_bytes + 1)


def _cat(filesystem: fsspec.AbstractFileSystem, key: str, num_bytes: int) -> bytes:
    try:
        return bytes(filesystem.cat_file(key, start=0, end=num_bytes))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ItemUnfetchable("missing", "There is no such object.") from error
    except IsADirectoryError as error:
        raise ItemUnfetchable("not_a_file", "It is a folder, not an object.") from error
    except Exception as error:  # every driver brings its own family (botocore, aiohttp, ...)
        if "not satisfiable" in str(error).lower():  # what S3 and HTTP say of any range of an empty object
            return b""
        raise ItemUnfetchable("unreadable", f"The store did not give it: {_first_line(error)}") from error


# ---------------------------------------------------------------- roots and sentences


def _root(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if separator and scheme == urls.SCHEME:
        return urls.root(text)
    if separator and scheme.lower() in INSECURE_SCHEMES:
        raise ValueError(f"The root {text!r} must begin with https://, where servers prove who they are.")
    if separator and scheme not in LOCAL_SCHEMES:
        if not rest.strip("/"):
            raise ValueError(f"The root {text!r} must name a bucket or host after {scheme}://.")
        return text.rstrip("/")
    try:
        directory = _local_file(rest) if separator else text
    except ItemUnfetchable as wrong:
        raise ValueError(f"The root {text!r} names no place: {wrong}") from None
    if not directory.startswith("/"):
        raise ValueError(f"The root {text!r} must be an absolute directory or a URL such as s3://bucket/folder.")
    return os.path.normpath(directory)


def _is_under(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(prefix.rstrip("/") + "/") for prefix in prefixes)


def _outside_roots() -> ItemUnfetchable:
    return ItemUnfetchable("outside_roots", "The reference points outside the allowed roots (IMAGEMILL_ALLOWED_ROOTS).")


def _too_large(max_bytes: int) -> ItemUnfetchable:
    return ItemUnfetchable("too_large", f"The file is larger than the limit of {max_bytes} bytes.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
