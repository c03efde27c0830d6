"""A backup is the ledger of one moment and the files it names; on either database it comes back whole or not at all."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from db import dumps, labels, migrate, models, registry, runs, session, workers
from db import snapshots as snapshot_rows
from pipeline import checkpoints, seals
from tests import builders as images
from tests.worker import builders
from tests.worker.machine import Machine, sentence
from tests.worker.schools import MODEL, School, open_school
from worker import archives, backups, heartbeat, inline, serving
from worker.archives import Manifest
from worker.errors import BackupDamaged, BackupRefused
from worker.learning import snapshotting
from worker.learning_messages import LabelledImage
from worker.messages import local_path
from worker.settings import Settings

NOW_S = 1_800_000_000.0


def silent(_: str, __: int, ___: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """An installation with something in every table, and its backup."""

    school: School
    file: Path
    finished: uuid.UUID
    waiting: uuid.UUID

    @property
    def settings(self) -> Settings:
        return self.school.settings

    @property
    def sessions(self) -> sessionmaker[Session]:
        return self.school.sessions


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Labels, some of images that came inside messages, a run with its version, a finished job and one that waits."""
    home = tmp_path_factory.mktemp("old") / "mill"
    home.mkdir()
    url = f"sqlite:///{home / 'ledger.sqlite'}"
    migrate.upgrade(url)
    sessions = session.connect(url)
    with open_school(home, sessions) as opened:
        roots = (*opened.settings.allowed_roots, opened.settings.inline_store)
        school = replace(opened, settings=replace(opened.settings, allowed_roots=roots))
        school.teach(("cat", "dog", "hen"), 12)
        teach_inline(school)
        run = school.learn(strategy="head")
        assert run.state == "succeeded", run.error_message
        version = school.version("base:1")
        builders.promote(sessions, version)
        finished = submit_inline(school, 100)
        finish(school, finished)
        waiting = submit_inline(school, 200)
        file = home.parent / "backup.tar"
        backups.back_up(sessions, school.settings.store, file, show=silent, now_s=NOW_S)
        yield House(school=school, file=file, finished=finished, waiting=waiting)
    session.engine_of(sessions).dispose()


def submit_inline(school: School, first: int) -> uuid.UUID:
    """Submit six images inside messages, in shards of three."""
    sent = [images.png_bytes(size=(32, 32), seed=first + n) for n in range(6)]
    items = [{"bytes": base64.b64encode(data).decode(), "key": f"k{n}"} for n, data in enumerate(sent)]
    store = Path(local_path(school.settings.store))
    desk = builders.desk(school.sessions, store, max_inline_bytes=1 << 16, shard_size=3)
    return builders.submit(desk, items, model="base")


def teach_inline(school: School) -> None:
    """Label a picture that came inside a message."""
    image = images.png_bytes(size=(32, 32), seed=77)
    reference = inline.keep(image, school.settings.inline_store, max_bytes=1 << 16)
    school.label([LabelledImage(reference=reference, label="cat", who="ada", source="test")])


def finish(school: School, job_id: uuid.UUID) -> None:
    """Classify all of a job of images that came inside messages, as a station does."""
    station = builders.station(school.sessions, Path(local_path(school.settings.inline_store)), school.pool)
    for shard in builders.shards(school.sessions, job_id):
        serving.sit(station, shard.id)
    assert builders.state_of(school.sessions, job_id) == "succeeded"


def settings_at(home: Path, database_url: str = "") -> Settings:
    return Settings(home=home, database_url=database_url).resolved()


def rows_of(settings: Settings) -> dict[str, list]:
    """Every row of a ledger, by table."""
    sessions = session.connect(settings.database_url)
    with dumps.moment(sessions) as connection:
        found = {shape.name: [*chain.from_iterable(dumps.chunks(connection, shape))] for shape in dumps.shapes()}
    session.engine_of(sessions).dispose()
    return found


def restore(house: House, settings: Settings, file: Path | None = None, *, replaces: bool = False) -> backups.Restored:
    return backups.restore(settings, file or house.file, replaces=replaces, show=silent)


# ---------------------------------------------------------------- there and back


def test_a_backup_holds_what_the_ledger_names_and_nothing_else(house: House) -> None:
    with archives.reading(house.file) as archive:
        names = archive.names("store")
        assert archive.manifest.missing == []
        assert {name.split("/")[1] for name in names} == {"checkpoints", "inline", "reports", "scores", "snapshots"}
        # Six that wait and one that is labelled; the six of the finished job are done with.
        assert len([name for name in names if name.startswith("store/inline/")]) == 7
        assert {name for name, told in archive.manifest.tables.items() if told["rows"]} >= {
            "versions", "serving", "promotions", "jobs", "parts", "shards", "outcomes", "label_sets", "classes",
            "groups", "images", "labels", "snapshots", "runs", "steps", "gates",
        }  # fmt: skip
    assert house.file.stat().st_mode & 0o077 == 0


def test_images_of_finished_jobs_are_kept_where_asked_for(house: House, tmp_path: Path) -> None:
    manifest = backups.back_up(
        house.sessions, house.settings.store, tmp_path / "all.tar", show=silent, now_s=NOW_S, takes_all_images=True
    )
    assert len([name for name in manifest.members if name.startswith("store/inline/")]) == 13


def test_what_was_backed_up_comes_back_on_either_database(
    house: House, tmp_path: Path, empty_database_url: str
) -> None:
    new = settings_at(tmp_path / "new", empty_database_url)
    restored = restore(house, new)
    assert (restored.versions, restored.broken) == (("base:1", f"{MODEL}:1"), ())
    assert_moved(house.settings, new)


def assert_moved(old: Settings, new: Settings) -> None:
    """Check that references below the old store lead below the new one, and all else is as it was, to the bit."""
    moved = json.loads(json.dumps(rows_of(old)).replace(old.store, new.store))
    found = json.loads(json.dumps(rows_of(new)))
    assert old.store not in json.dumps(found)
    # A snapshot's digest is that of a manifest with references in it.
    for table in moved.keys() - {"snapshots", "steps"}:
        assert found[table] == moved[table], table
    assert [len(found[table]) for table in found] == [len(moved[table]) for table in moved]


def test_what_was_restored_goes_on(house: House, tmp_path: Path, empty_database_url: str) -> None:
    new = settings_at(tmp_path / "new", empty_database_url)
    restore(house, new)
    sessions = session.connect(new.database_url)
    with session.reading(sessions) as reading:
        version = registry.version(reading, f"{MODEL}:1")
        checkpoints.verify(version.reference, version.sha256)
        [*all_runs] = runs.runs(reading, limit=5)
        assert Path(local_path(all_runs[0].report)).is_file()
        [row] = reading.scalars(select(models.Snapshot))
        taken = snapshot_rows.NewSnapshot(
            model=row.model, digest=row.digest, reference=row.reference, num_images=row.num_images, counts=row.counts,
            test_digest=row.test_digest, last_label_id=row.last_label_id,
        )  # fmt: skip
        assert labels.last(reading, MODEL) == row.last_label_id
    # Its references were changed, and so was what proves them.
    snapshot = snapshotting.read(taken)
    [kept] = [one for one in snapshot.examples if "/inline/" in one.reference]
    assert hashlib.sha256(Path(local_path(kept.reference)).read_bytes()).hexdigest() == kept.sha256
    # Rows are numbered on, and work that waited is done.
    with session.transaction(sessions) as transaction:
        fields = {name: getattr(version, name) for name in registry.NewVersion.__dataclass_fields__}
        assert registry.register(transaction, registry.NewVersion(**fields)).id > version.id
    there = School(settings=new, sessions=sessions, pool=house.school.pool)
    finish(there, house.waiting)
    assert [one.key for one in builders.outcomes(sessions, house.finished)] == [f"k{n}" for n in range(6)]
    finish(there, submit_inline(there, 300))
    session.engine_of(sessions).dispose()


def test_a_ledger_moves_from_one_database_to_the_other_and_back(
    house: House, tmp_path: Path, empty_database_url: str
) -> None:
    there, back = settings_at(tmp_path / "there", empty_database_url), settings_at(tmp_path / "back")
    restore(house, there)
    sessions = session.connect(there.database_url)
    backups.back_up(sessions, there.store, tmp_path / "again.tar", show=silent, now_s=NOW_S)
    session.engine_of(sessions).dispose()
    restore(house, back, tmp_path / "again.tar")
    assert_moved(there, back)


def test_what_is_written_while_a_backup_is_made_is_in_the_next_one(
    house: House, tmp_path: Path, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumps, "CHUNK_ROWS", 2)
    at = builders.desk(sessions, tmp_path / "store")
    builders.version(sessions, images.tiny_checkpoint(tmp_path / "store"), serves=True)
    for _ in range(5):
        builders.submit(at)
    written = []

    def show(_: str, __: int, ___: int) -> None:
        written.append(builders.submit(at))  # a whole job between any two chunks

    store = (tmp_path / "store").as_uri()
    manifest = backups.back_up(sessions, store, tmp_path / "b.tar", show=show, now_s=NOW_S)
    assert len(written) > 10
    assert {name: manifest.tables[name]["rows"] for name in ("jobs", "parts", "shards")} == dict.fromkeys(
        ("jobs", "parts", "shards"), 5
    )
    restored = settings_at(tmp_path / "new")
    restore(house, restored, tmp_path / "b.tar")
    assert len(rows_of(restored)["jobs"]) == 5


# ---------------------------------------------------------------- damage


def harmed(house: House, tmp_path: Path, at: int) -> Path:
    file = tmp_path / "harmed.tar"
    content = bytearray(house.file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("member", ["ledger/labels/00001.jsonl.gz", "weights", archives.MANIFEST, archives.SEAL])
def test_a_flipped_byte_is_found_before_anything_is_written(house: House, tmp_path: Path, member: str) -> None:
    with tarfile.open(house.file) as tar:
        [found, *_] = [one for one in tar.getmembers() if member in one.name]
    file = harmed(house, tmp_path, found.offset_data + found.size // 2)
    new = settings_at(tmp_path / "new")
    with pytest.raises(BackupDamaged, match=r"was changed|is damaged"):
        restore(house, new, file)
    assert not new.home.exists()


def test_no_flipped_byte_goes_unnoticed_but_in_the_padding(house: House, tmp_path: Path) -> None:
    with archives.reading(house.file) as archive:
        whole = asdict(archive.manifest)
    size, noticed = house.file.stat().st_size, 0
    for at in range(0, size, size // 60):
        try:
            with archives.reading(harmed(house, tmp_path, at)) as archive:
                assert asdict(archive.manifest) == whole  # what proved whole is what was written
        except BackupDamaged:
            noticed += 1
    assert noticed > 40


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_file_that_was_cut_off_is_refused(house: House, tmp_path: Path, part: float) -> None:
    file = tmp_path / "cut.tar"
    file.write_bytes(house.file.read_bytes()[: int(part * house.file.stat().st_size)])
    with pytest.raises(BackupDamaged):
        restore(house, settings_at(tmp_path / "new"), file)


def forged(file: Path, name: str, *, kind: bytes = tarfile.REGTYPE, data: bytes = b"x", **tables: object) -> Path:
    """Write an archive by hand, with a manifest and a seal that are right."""
    size, sha256 = (len(data), hashlib.sha256(data).hexdigest()) if kind == tarfile.REGTYPE else (0, "")
    manifest = Manifest(
        revision=migrate.head(), store="file:///old", created_at_s=0.0, members={name: (size, sha256)}, **tables
    )
    told = json.dumps(asdict(manifest)).encode()
    with tarfile.open(file, "w") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = size, kind, "/etc/passwd"
        tar.addfile(member, io.BytesIO(data))
        for inside, content in ((archives.MANIFEST, told), (archives.SEAL, hashlib.sha256(told).hexdigest().encode())):
            member = tarfile.TarInfo(inside)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("store/../../escaped", tarfile.REGTYPE),
        ("/store/escaped", tarfile.REGTYPE),
        ("elsewhere/escaped", tarfile.REGTYPE),
        ("store/link", tarfile.SYMTYPE),
        ("store/pipe", tarfile.FIFOTYPE),
    ],
)
def test_a_forged_name_or_link_is_refused(house: House, tmp_path: Path, name: str, kind: bytes) -> None:
    file = forged(tmp_path / "forged.tar", name, kind=kind)
    with pytest.raises(BackupDamaged, match="nothing of it is used"):
        restore(house, settings_at(tmp_path / "new"), file)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["forged.tar"]


def test_a_column_whose_name_is_a_statement_is_refused(house: House, tmp_path: Path) -> None:
    tables = {"jobs": {"rows": 1, "columns": ["id) VALUES (1); DROP TABLE jobs; --"], "kinds": ["plain"]}}
    with pytest.raises(BackupDamaged, match="names a table or a column"):
        restore(house, settings_at(tmp_path / "new"), forged(tmp_path / "forged.tar", "store/x", tables=tables))


# ---------------------------------------------------------------- refusals


def test_a_ledger_or_a_store_that_is_not_empty_is_replaced_only_if_told(
    house: House, tmp_path: Path, database_url: str
) -> None:
    new = settings_at(tmp_path / "new", database_url)
    restore(house, new)  # a ledger that was migrated and holds nothing is empty
    with pytest.raises(BackupRefused, match="ledger here is not empty; --replace"):
        restore(house, new)
    before = rows_of(new)
    restore(house, new, replaces=True)
    assert rows_of(new).keys() == before.keys()
    other = settings_at(tmp_path / "other")
    shutil.copytree(local_path(new.store), local_path(other.store))
    with pytest.raises(BackupRefused, match=r"store at .* is not empty"):
        restore(house, other)


def test_a_ledger_that_workers_run_on_is_never_replaced(house: House, tmp_path: Path, database_url: str) -> None:
    new = settings_at(tmp_path / "new", database_url)
    sessions = session.connect(database_url)
    with session.transaction(sessions) as transaction:
        workers.beat(transaction, heartbeat.row("intake"))
    with pytest.raises(BackupRefused, match="Workers run on this ledger; stop them first"):
        restore(house, new, replaces=True)
    session.engine_of(sessions).dispose()


#: Tables, and columns of others, that the older schema of the tests has not.
LATER = frozenset({"api_keys", "callbacks", "pauses", "proposals", "removals"})
LATER_COLUMNS = {"jobs": "traceparent"}


def rewritten(house: House, file: Path, revision: str, *, without: str = "") -> Path:
    """Write the archive again as another revision would have: an older one lacks a column of `outcomes`, and tables."""
    with archives.reading(house.file) as archive:
        manifest = Manifest(revision=revision, store=archive.manifest.store, created_at_s=0.0)
        with archives.writing(file, manifest) as writer:
            for name, told in archive.manifest.tables.items():
                if without and name in LATER:
                    continue
                gone = LATER_COLUMNS.get(name, without) if without else ""
                lost = told["columns"].index(gone) if gone in told["columns"] else None
                for member in archive.names(f"ledger/{name}"):
                    rows = [[v for n, v in enumerate(row) if n != lost] for row in archive.rows(member)]
                    writer.add_rows(member, rows)
                kept = {key: [v for n, v in enumerate(told[key]) if n != lost] for key in ("columns", "kinds")}
                manifest.tables[name] = {"rows": told["rows"], **kept}
            for member in archive.names("store"):
                with archive.open(member) as opened:
                    writer.add(member, opened, archive.manifest.members[member][0])
    return file


def test_an_older_schema_is_restored_and_brought_up_to_date(
    house: House, tmp_path: Path, empty_database_url: str
) -> None:
    new = settings_at(tmp_path / "new", empty_database_url)
    restored = restore(house, new, rewritten(house, tmp_path / "older.tar", "0003", without="content_sha256"))
    assert (len(restored.versions), restored.broken) == (2, ())
    sessions = session.connect(new.database_url)
    migrate.check(sessions)
    session.engine_of(sessions).dispose()
    assert {row[-1] for row in rows_of(new)["outcomes"]} == {None}


def test_a_newer_schema_is_refused(house: House, tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match=r"newer release \(schema 9999\)"):
        restore(house, settings_at(tmp_path / "new"), rewritten(house, tmp_path / "newer.tar", "9999"))


def test_a_backup_is_never_written_over(house: House, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    file.write_text("the only one there is")
    with pytest.raises(BackupRefused, match="never written over"):
        backups.back_up(house.sessions, house.settings.store, file, show=silent, now_s=NOW_S)
    assert [one.name for one in tmp_path.iterdir()] == ["b.tar"]


# ---------------------------------------------------------------- the commands


def test_the_commands_back_up_restore_and_say_so(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.import_model()
    job_id = machine.submit()
    file = tmp_path / "mill.tar"
    ran = machine.run("backup", file)
    assert (ran.code, ran.err) == (0, "")
    assert f"files to {file}" in ran.out
    assert "never written over" in sentence(machine.run("backup", file), 2)
    monkeypatch.setenv("IMAGEMILL_HOME", str(tmp_path / "elsewhere"))
    told = machine.run("restore", file, "--json").json
    assert (told["versions"], told["broken"], told["missing"]) == (["cats:1"], [], [])
    assert machine.run("models", "verify", "cats").code == 0
    assert [one["id"] for one in machine.run("jobs", "list", "--json").json] == [str(job_id)]
    assert "--replace" in sentence(machine.run("restore", file), 2)
    assert machine.run("restore", file, "--replace").out.endswith("versions that proved whole: 1.\n")
    file.write_bytes(file.read_bytes()[:5000])
    assert sentence(machine.run("restore", file, "--replace"), 1).endswith("is damaged: unexpected end of data.")


def test_a_broken_checkpoint_does_not_stop_a_backup_and_is_named(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.import_model()
    reference = machine.import_model("--json", seed=2).json["reference"]
    (Path(local_path(reference)) / seals.WEIGHTS).write_bytes(b"torn")
    ran = machine.run("backup", tmp_path / "mill.tar")
    assert (ran.code, reference.rpartition("/")[2] in ran.out) == (1, True)
    monkeypatch.setenv("IMAGEMILL_HOME", str(tmp_path / "elsewhere"))
    ran = machine.run("restore", tmp_path / "mill.tar", "--json")
    assert (ran.code, ran.json["versions"]) == (1, ["cats:1"])
    assert ran.json["broken"][0].startswith("cats:2: There is no checkpoint")
