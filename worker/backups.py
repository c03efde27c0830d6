"""Takes a ledger and its store. Gives one archive of both, and the same ledger and store from it, elsewhere.

The ledger comes first, as it is at one moment, then the files it names: what is written meanwhile is not among them.
Of the store an archive holds the checkpoints and test scores of every version, the manifests of snapshots, the reports
of runs, and inline images that waiting items or labels name. Left out: features (a cache), the state of runs under way
(they begin anew), checkpoints that are no version, and inline images of finished jobs unless they are asked for.

Knows nothing of Celery. Images that were handed over as references stay where they are.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session, sessionmaker

from db import dumps, jobs, migrate, outcomes, registry, session, workers
from db.dumps import Shape
from pipeline import checkpoints, errors, seals, stores
from pipeline.learning import snapshots
from worker import archives
from worker.archives import Manifest, Reader, Writer
from worker.errors import BackupRefused
from worker.messages import local_path
from worker.settings import Settings

#: the one file of a snapshot's folder, and of a version's test scores
SNAPSHOT, SCORES = "manifest.jsonl", "scores.safetensors"
#: seconds without a heartbeat after which a worker does not run any more
ALIVE_S = 60.0

#: told what goes on, how far it is, and how much it is
Show = Callable[[str, int, int], None]


@dataclass(slots=True, kw_only=True)
class Named:
    """The files of the store that rows name, by their paths below it."""

    store: str
    takes_all_images: bool
    #: path -> nothing; in the order they were met
    paths: dict[str, None] = field(default_factory=dict)
    #: those that may be gone without harm
    spare: set[str] = field(default_factory=set)
    #: folder of a checkpoint -> the sha256 of its card
    checkpoints: dict[str, str] = field(default_factory=dict)
    #: references to checkpoints, snapshots and reports that lie elsewhere, and are not kept
    elsewhere: list[str] = field(default_factory=list)

    def read(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        """Note what these rows name."""
        column, note = self._notes().get(shape.name, ("", self._file))
        if column:
            place = shape.columns.index(column)
            for row in rows:
                note(row[place])
        if shape.name == "versions":
            reference, sha256 = (shape.columns.index(name) for name in ("reference", "sha256"))
            for row in rows:
                self._version(row[reference], row[sha256])

    def _notes(self) -> dict[str, tuple[str, Callable[[Any], None]]]:
        """Table -> the column that names files, and how."""
        notes = {
            "snapshots": ("reference", lambda reference: self._file(f"{reference}/{SNAPSHOT}")),
            "runs": ("report", self._file),
            "shards": ("items", self._images),
            "images": ("reference", self._images),
            "labels": ("reference", self._images),
            "proposals": ("reference", self._images),
        }
        return notes | ({"outcomes": ("reference", self._images)} if self.takes_all_images else {})

    def _version(self, reference: str, sha256: str) -> None:
        folder = self._below(reference)
        if folder is None:
            self.elsewhere.append(reference)
            return
        self.checkpoints[folder] = sha256
        scores = f"scores/{sha256[:32]}/{SCORES}"
        self.spare.add(scores)  # an imported version has none
        self.paths[scores] = None

    def _file(self, reference: str | None) -> None:
        if reference is None:  # a run without a report
            return
        path = self._below(reference)
        if path is None:
            self.elsewhere.append(reference)
        else:
            self.paths[path] = None

    def _images(self, value: Any) -> None:
        references = [value] if isinstance(value, str) else [item[2] for item in value or ()]
        for reference in references:
            path = self._below(reference)
            if path is not None and path.startswith("inline/"):
                self.paths[path] = None

    def _below(self, reference: str) -> str | None:
        return reference.removeprefix(f"{self.store}/") if reference.startswith(f"{self.store}/") else None


def back_up(
    sessions: sessionmaker[Session], store: str, file: Path, *, show: Show, now_s: float, takes_all_images: bool = False
) -> Manifest:
    """Write the archive while the system runs. Raises `BackupRefused`, `StoreUnreachable`, `LedgerError`.

    What the ledger names and the store lacks, or holds broken, is left out and named in `missing`.
    """
    named = Named(store=store.rstrip("/"), takes_all_images=takes_all_images)
    manifest = Manifest(revision=migrate.head(), store=named.store, created_at_s=now_s)
    with archives.writing(file, manifest) as archive:
        with dumps.moment(sessions) as connection:
            _add_rows(archive, connection, named, show)
        manifest.missing += named.elsewhere
        _add_files(archive, named, show)
    return manifest


def _add_rows(archive: Writer, connection: Connection, named: Named, show: Show) -> None:
    shapes = dumps.shapes()
    counted = {shape.name: dumps.num_rows(connection, shape.name) for shape in shapes}
    done = 0
    for shape in shapes:
        for number, rows in enumerate(dumps.chunks(connection, shape), start=1):
            archive.add_rows(f"ledger/{shape.name}/{number:05}.jsonl.gz", rows)
            named.read(shape, rows)
            show("Rows of the ledger", done := done + len(rows), sum(counted.values()))
        archive.manifest.tables[shape.name] = {
            "rows": counted[shape.name], "columns": list(shape.columns), "kinds": list(shape.kinds),
        }  # fmt: skip


def _add_files(archive: Writer, named: Named, show: Show) -> None:
    whole = [folder for folder, sha256 in named.checkpoints.items() if _is_whole(f"{named.store}/{folder}", sha256)]
    archive.manifest.missing += [folder for folder in named.checkpoints if folder not in whole]
    paths = [f"{folder}/{name}" for folder in whole for name in (seals.WEIGHTS, seals.PARITY, seals.CARD)]
    paths += named.paths
    for number, path in enumerate(paths, start=1):
        with stores.open_file(f"{named.store}/{path}") as opened:
            if opened is not None:
                size = opened.seek(0, io.SEEK_END)
                opened.seek(0)
                archive.add(f"store/{path}", opened, size)
            elif path not in named.spare:
                archive.manifest.missing.append(path)
        show("Files of the store", number, len(paths))


def _is_whole(reference: str, sha256: str) -> bool:
    try:
        seals.check(reference, sha256)
    except errors.CheckpointBroken:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was brought back."""

    manifest: Manifest
    #: versions whose checkpoints were loaded and gave the logits they gave when saved
    versions: tuple[str, ...]
    #: `model:number: why` of those that could not
    broken: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Moves:
    """How references change between the store that was backed up and the one that is restored to."""

    old: str
    new: str
    #: digest of a snapshot -> that of the same one with its references changed
    digests: dict[str, str] = field(default_factory=dict)

    def value(self, value: Any) -> Any:
        """Change every reference in a value of a row."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict):
            return {name: self.value(one) for name, one in value.items()}
        return value

    def manifest(self, data: bytes) -> tuple[str, bytes]:
        """Change a snapshot's manifest; give its folder's name and the manifest."""
        found = snapshots.from_bytes(data)
        moved = snapshots.collect(
            found.classes,
            [replace(example, reference=self._text(example.reference)) for example in found.examples],
            removed=found.removed,
        )
        self.digests[found.digest()] = moved.digest()
        return moved.digest()[:32], moved.as_bytes()

    def _text(self, text: str) -> str:
        if text in self.digests:
            return self.digests[text]
        for old, new in ((self.old, self.new), (local_path(self.old), local_path(self.new))):
            if text.startswith(f"{old}/"):
                return f"{new}/{self._path(text.removeprefix(f'{old}/'))}"
        return text

    def _path(self, path: str) -> str:
        folder, _, name = path.partition("/")
        if folder != "snapshots":
            return path
        moved = {old[:32]: new[:32] for old, new in self.digests.items()}
        return "/".join([folder, *(moved.get(step, step) for step in name.split("/"))])


def restore(settings: Settings, file: Path, *, replaces: bool, show: Show) -> Restored:
    """Bring an archive back into the ledger and the store that the settings name, and prove it.

    The ledger comes last and in one transaction, so that a restore that fails leaves none. Raises `BackupDamaged`
    before anything is written, `BackupRefused` where something is there already and is not to be replaced.
    """
    with archives.reading(file, lambda done: show("Proof of the archive", done, file.stat().st_size)) as archive:
        if not migrate.knows(archive.manifest.revision):
            raise BackupRefused(
                f"{file} is of a newer release (schema {archive.manifest.revision}): restore it with that one."
            )
        settings.home.mkdir(parents=True, exist_ok=True)
        with session.connected(settings.database_url) as sessions:
            _refuse_unless_free(sessions, settings.store, replaces=replaces)
            moves = Moves(old=archive.manifest.store, new=settings.store.rstrip("/"))
            _write_files(archive, moves, show)
            with session.transaction(sessions) as transaction:
                _write_rows(archive, transaction.connection(), moves, show)
            return _proved(sessions, archive.manifest, show)


def _refuse_unless_free(sessions: sessionmaker[Session], store: str, *, replaces: bool) -> None:
    with session.reading(sessions) as reading:
        if dumps.has_heartbeats(reading.connection()) and workers.list_alive(reading, within_s=ALIVE_S):
            raise BackupRefused("Workers run on this ledger; stop them first, and wait a minute if they were killed.")
        if not replaces and not dumps.is_empty(reading.connection()):
            raise BackupRefused("The ledger here is not empty; --replace deletes all that is in it, for good.")
    if not replaces and not stores.is_empty(store):
        raise BackupRefused(f"The store at {store} is not empty; --replace writes over what has the same name.")


def _write_files(archive: Reader, moves: Moves, show: Show) -> None:
    names = archive.names("store")
    for number, name in enumerate(names, start=1):
        path = name.removeprefix("store/")
        with archive.open(name) as opened:
            if moves.old != moves.new and path.startswith("snapshots/"):
                folder, data = moves.manifest(opened.read())
                stores.copy_in(f"{moves.new}/snapshots/{folder}/{SNAPSHOT}", io.BytesIO(data))
            else:
                stores.copy_in(f"{moves.new}/{path}", opened)
        show("Files of the store", number, len(names))


def _write_rows(archive: Reader, connection: Connection, moves: Moves, show: Show) -> None:
    manifest = archive.manifest
    dumps.drop(connection)
    migrate.upgrade_within(connection, manifest.revision)
    done = 0
    for name, told in manifest.tables.items():
        shape = Shape(name=name, columns=tuple(told["columns"]), kinds=tuple(told["kinds"]))
        for rows in _chunks(archive, name):
            dumps.write(connection, shape, moves.value(rows) if moves.old != moves.new else rows)
            show("Rows of the ledger", done := done + len(rows), manifest.num_rows)
        if dumps.num_rows(connection, name) != told["rows"]:
            raise BackupRefused(f"{name} should have {told['rows']} rows and has others; nothing was restored.")
    dumps.number_on(connection)
    migrate.upgrade_within(connection, "head")


def _chunks(archive: Reader, table: str) -> Iterator[list[list[Any]]]:
    for name in archive.names(f"ledger/{table}"):
        yield archive.rows(name)


def _proved(sessions: sessionmaker[Session], manifest: Manifest, show: Show) -> Restored:
    """Load every version's checkpoint and read a job's outcomes, as workers and callers will."""
    migrate.check(sessions)
    with session.reading(sessions) as reading:
        versions = registry.versions(reading)
        for job in jobs.jobs(reading, limit=1):
            outcomes.page(reading, job.id, limit=100)
    whole, broken = [], []
    for number, version in enumerate(versions, start=1):
        try:
            checkpoints.verify(version.reference, version.sha256)
            whole.append(version.name)
        except errors.PipelineError as wrong:
            broken.append(f"{version.name}: {wrong}")
        show("Checkpoints", number, len(versions))
    return Restored(manifest=manifest, versions=tuple(whole), broken=tuple(broken))
