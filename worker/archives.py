"""Takes named pieces. Gives one file that holds them and proves that they are what was written.

The file is a plain tar, so that `tar tf` lists it. Its members, in this order:

    ledger/TABLE/00001.jsonl.gz    some thousand rows, a JSON array each, in the order of the primary key
    store/PATH                     a file of the store, as it lies there
    manifest.json                  format, schema revision, the store's address, tables, size and sha256 of each member
    manifest.sha256                of manifest.json, in hex; the last, so that a file that was cut off is found out

Knows nothing of what the pieces mean. Nothing is ever extracted by its name in the tar.
"""

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pipeline import stores
from worker.errors import BackupDamaged, BackupRefused

#: layout of the archive; raised when an older reader would misread it
FORMAT = 1
MANIFEST, SEAL = "manifest.json", "manifest.sha256"
#: what a table or a column is called; anything else was put there to be run
NAME = re.compile(r"[a-z][a-z0-9_]*")
#: compression of rows: the quickest takes off most, for they repeat themselves
LEVEL = 1
#: read at once of a large member
PIECE_BYTES = 1 << 20


@dataclass(slots=True, kw_only=True)
class Manifest:
    """What an archive holds."""

    #: of the ledger's schema
    revision: str
    #: address of the store that the ledger's references begin with
    store: str
    created_at_s: float
    #: table -> {"rows", "columns", "kinds"}
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: files of the store that the ledger names and that were gone or broken
    missing: list[str] = field(default_factory=list)
    #: member -> [bytes, sha256]
    members: dict[str, tuple[int, str]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def num_rows(self) -> int:
        """Rows of all tables."""
        return sum(table["rows"] for table in self.tables.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of all members."""
        return sum(size for size, _ in self.members.values())


class Writer:
    """An archive that is being written; `manifest` is completed as members are added."""

    def __init__(self, tar: tarfile.TarFile, manifest: Manifest) -> None:
        self._tar = tar
        self.manifest = manifest

    def add_rows(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows as compressed JSON lines."""
        lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        data = gzip.compress(lines.encode(), LEVEL, mtime=0)
        self.add(name, io.BytesIO(data), len(data))

    def add(self, name: str, source: BinaryIO, size: int) -> None:
        """Add a stream of known length."""
        hashing = _Hashing(source)
        self._tar.addfile(_member(name, size), hashing)
        self.manifest.members[name] = (size, hashing.digest.hexdigest())

    def finish(self) -> None:
        """Write the manifest and its seal."""
        data = json.dumps(asdict(self.manifest)).encode()
        seal = hashlib.sha256(data).hexdigest().encode()
        self._tar.addfile(_member(MANIFEST, len(data)), io.BytesIO(data))
        self._tar.addfile(_member(SEAL, len(seal)), io.BytesIO(seal))


@contextmanager
def writing(file: Path, manifest: Manifest) -> Iterator[Writer]:
    """Write an archive beside `file`, and give it that name once it is whole. Raises `BackupRefused` if it exists."""
    if file.exists():
        raise BackupRefused(f"{file} exists; a backup is never written over: give another name.")
    with stores.written(file) as opened:
        os.fchmod(opened.fileno(), 0o600)  # it holds what the ledger holds
        with tarfile.open(fileobj=opened, mode="w", format=tarfile.PAX_FORMAT) as tar:
            writer = Writer(tar, manifest)
            yield writer
            writer.finish()


class Reader:
    """An archive that has proved whole."""

    def __init__(self, tar: tarfile.TarFile, manifest: Manifest) -> None:
        self._tar = tar
        self.manifest = manifest

    def names(self, folder: str) -> list[str]:
        """List the members below a folder, in the order they were written."""
        return [name for name in self.manifest.members if name.startswith(f"{folder}/")]

    def rows(self, name: str) -> list[list[Any]]:
        """Read rows that `add_rows` wrote."""
        with self.open(name) as opened:
            return [json.loads(line) for line in gzip.decompress(opened.read()).splitlines()]

    def open(self, name: str) -> BinaryIO:
        """Open a member for reading."""
        opened = self._tar.extractfile(name)
        assert opened is not None  # noqa: S101 - it was checked to be a regular file
        return opened  # type: ignore[return-value]  # mypy knows it as IO[bytes]


@contextmanager
def reading(file: Path, show: Callable[[int], None] = lambda _: None) -> Iterator[Reader]:
    """Open an archive once every byte of it has proved to be what was written; `show` is told the bytes so far.

    Raises `BackupDamaged`, and `BackupRefused` if it is of a format that is not read here.
    """
    try:
        tar = tarfile.open(file, "r:")  # noqa: SIM115 - closed below
    except tarfile.TarError as wrong:
        raise BackupDamaged(f"{file} is no backup, or its beginning is damaged: {wrong}.") from wrong
    with tar:
        try:
            manifest = _manifest(tar, file)
            _check(tar, manifest, file, show)
        except (tarfile.TarError, EOFError) as wrong:
            raise BackupDamaged(f"{file} is damaged: {wrong}.") from wrong
        yield Reader(tar, manifest)


def _manifest(tar: tarfile.TarFile, file: Path) -> Manifest:
    written = {member.name: member for member in tar.getmembers()}
    if len(written) != len(tar.getmembers()):
        raise BackupDamaged(f"{file} holds two members of one name; no backup does.")
    if MANIFEST not in written or SEAL not in written:
        raise BackupDamaged(f"{file} was cut off, or is no backup: it has no manifest.")
    data, seal = (_content(tar, written[name]) for name in (MANIFEST, SEAL))
    if hashlib.sha256(data).hexdigest().encode() != seal:
        raise BackupDamaged(f"The manifest of {file} was changed.")
    told = json.loads(data)
    if told.get("format") != FORMAT:
        raise BackupRefused(f"{file} has format {told.get('format')}; format {FORMAT} is read here.")
    manifest = Manifest(**told)
    _check_tables(manifest, file)
    return manifest


def _check_tables(manifest: Manifest, file: Path) -> None:
    names = [*manifest.tables, *(column for told in manifest.tables.values() for column in told["columns"])]
    for name in names:
        if not NAME.fullmatch(name):
            raise BackupDamaged(f"{file} names a table or a column {name!r}, which no backup does.")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = tar.extractfile(member) if member.isreg() else None
    return opened.read() if opened else b""


def _check(tar: tarfile.TarFile, manifest: Manifest, file: Path, show: Callable[[int], None]) -> None:
    """Hold every member to the manifest: no more, no fewer, regular files under names that stay below."""
    found = {member.name: member for member in tar.getmembers() if member.name not in (MANIFEST, SEAL)}
    if strange := sorted(found.keys() ^ manifest.members.keys()):
        raise BackupDamaged(f"{strange[0]} of {file} is missing, or is not in its manifest.")
    done = 0
    for name, (size, sha256) in manifest.members.items():
        _check_name(name, found[name], file)
        opened = tar.extractfile(found[name])
        digest = hashlib.sha256()
        while opened and (piece := opened.read(PIECE_BYTES)):
            digest.update(piece)
            show(done := done + len(piece))
        if found[name].size != size or digest.hexdigest() != sha256:
            raise BackupDamaged(f"{name} of {file} was changed: its sha256 is {digest.hexdigest()}, not {sha256}.")


def _check_name(name: str, member: tarfile.TarInfo, file: Path) -> None:
    steps = PurePosixPath(name).parts
    if not member.isreg() or steps[:1] not in (("ledger",), ("store",)) or ".." in steps or "\0" in name:
        raise BackupDamaged(f"{file} holds {name!r}, which no backup does: nothing of it is used.")


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


class _Hashing:
    """A stream that hashes what is read of it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data
