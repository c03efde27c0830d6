"""A backup of a store in one bucket, restored into another: real commands, a real S3 endpoint on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from db import registry, session
from pipeline import references, seals, stores
from tests import builders as images
from tests.worker import builders
from tests.worker.machine import Machine
from worker import inline

OLD, NEW = "s3://old/mill", "s3://new/mill"


@pytest.fixture
def buckets(monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """Two empty buckets."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    filesystem = fsspec.filesystem("s3")
    for bucket in ("old", "new"):
        filesystem.mkdirs(bucket, exist_ok=True)
    yield filesystem
    type(filesystem).clear_instance_cache()
    server.stop()


def names(bucket: fsspec.AbstractFileSystem, store: str) -> set[str]:
    return {name.removeprefix(store.removeprefix("s3://")) for name in bucket.find(store)}


def test_a_store_in_one_bucket_is_restored_from_its_backup_into_another_and_proves_whole(
    buckets: fsspec.AbstractFileSystem, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEMILL_STORE", OLD)
    machine.import_model()
    picture = images.png_bytes(size=(8, 8), seed=1)
    kept = inline.keep(picture, f"{OLD}/inline", max_bytes=1 << 16)
    job_id = builders.submit(builders.desk(machine.sessions, tmp_path), [kept])
    before, file = names(buckets, OLD), tmp_path / "mill.tar"
    told = machine.run("backup", file, "--json")
    assert (told.code, told.json["missing"]) == (0, [])
    stores.remove_folder(OLD)  # the archive is all there is

    monkeypatch.setenv("IMAGEMILL_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("IMAGEMILL_STORE", NEW)
    told = machine.run("restore", file, "--json").json
    assert (told["versions"], told["broken"], told["missing"]) == (["cats:1"], [], [])
    assert (names(buckets, NEW), names(buckets, OLD)) == (before, set())
    assert machine.run("models", "verify", "cats").code == 0
    [job] = machine.run("jobs", "list", "--json").json
    assert job["id"] == str(job_id)
    url = f"sqlite:///{tmp_path / 'elsewhere' / 'ledger.sqlite'}"
    with session.connected(url) as sessions:
        [shard] = builders.shards(sessions, job_id)
        with session.reading(sessions) as reading:
            version = registry.version(reading, "cats")
    # What rows name leads into the new bucket, whole.
    moved = shard.items[0][2]
    assert (version.reference.startswith(NEW), moved.startswith(f"{NEW}/inline/")) == (True, True)
    seals.check(version.reference, version.sha256)
    assert references.fetch(moved, references.Roots.parse([f"{NEW}/inline"]), max_bytes=1 << 16) == picture


def test_a_bucket_that_holds_something_is_not_restored_over_and_a_broken_object_is_named(
    buckets: fsspec.AbstractFileSystem, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEMILL_STORE", OLD)
    reference = machine.import_model("--json").json["reference"]
    assert machine.run("backup", tmp_path / "whole.tar").code == 0
    buckets.pipe_file(f"{reference.removeprefix('s3://')}/{seals.WEIGHTS}", b"torn")
    ran = machine.run("backup", tmp_path / "torn.tar")
    assert (ran.code, reference.rpartition("/")[2] in ran.out) == (1, True)
    monkeypatch.setenv("IMAGEMILL_HOME", str(tmp_path / "elsewhere"))
    ran = machine.run("restore", tmp_path / "whole.tar")  # into the bucket as it is
    assert (ran.code, "--replace" in ran.err) == (2, True)
    assert machine.run("restore", tmp_path / "whole.tar", "--replace").code == 0
    assert machine.run("models", "verify", "cats").code == 0
