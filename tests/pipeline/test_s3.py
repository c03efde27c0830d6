"""References and checkpoints on a real S3 endpoint, on loopback."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from pipeline import checkpoints, seals, stores, strays
from pipeline.errors import CheckpointBroken, ItemUnfetchable, StoreUnreachable
from pipeline.references import Roots, fetch
from tests import builders

ROOTS = Roots.parse(["s3://bucket/in", "s3://nonesuch"])


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    filesystem = fsspec.filesystem("s3")
    filesystem.mkdirs("bucket", exist_ok=True)
    filesystem.pipe({"bucket/in/a.jpg": b"bytes", "bucket/in/empty.jpg": b"", "bucket/out/b.jpg": b"b"})
    yield filesystem
    type(filesystem).clear_instance_cache()


def test_an_object_is_fetched() -> None:
    assert fetch("s3://bucket/in/a.jpg", ROOTS, max_bytes=5) == b"bytes"


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("s3://bucket/in/none.jpg", "missing"),
        ("s3://nonesuch/a.jpg", "missing"),
        ("s3://bucket/in/empty.jpg", "empty"),
        ("s3://bucket/out/b.jpg", "outside_roots"),
        ("s3://bucket/in/../out/b.jpg", "outside_roots"),
    ],
)
def test_an_object_that_cannot_be_had_is_refused(reference: str, kind: str) -> None:
    with pytest.raises(ItemUnfetchable) as caught:
        fetch(reference, ROOTS, max_bytes=1000)
    assert caught.value.kind == kind


def test_an_object_that_is_too_large_is_refused() -> None:
    with pytest.raises(ItemUnfetchable, match="larger than the limit"):
        fetch("s3://bucket/in/a.jpg", ROOTS, max_bytes=4)


def test_a_checkpoint_is_saved_and_proves_itself() -> None:
    saved = builders.tiny_checkpoint("s3://bucket/store")
    assert builders.tiny_checkpoint("s3://bucket/store") == saved
    checkpoints.verify(saved.reference, saved.sha256)
    with pytest.raises(CheckpointBroken, match="There is no checkpoint"):
        checkpoints.load("s3://bucket/store/checkpoints/0", sha256=None)


def test_a_bucket_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(StoreUnreachable, match="could not be written"):
        builders.tiny_checkpoint("s3://nonesuch/store")


def test_a_file_is_copied_in_hashed_and_removed_and_a_store_knows_when_it_is_empty() -> None:
    assert stores.is_empty("s3://bucket/backup")
    stores.copy_in("s3://bucket/backup/a/b", io.BytesIO(b"bytes"))
    assert not stores.is_empty("s3://bucket/backup")
    assert stores.hash_file("s3://bucket/backup/a", "b") == hashlib.sha256(b"bytes").hexdigest()
    assert stores.hash_file("s3://bucket/backup/a", "c") is None
    with stores.open_file("s3://bucket/backup/a/b") as opened:
        assert (opened.seek(0, io.SEEK_END), opened.seek(0), opened.read()) == (5, 0, b"bytes")
    with stores.open_file("s3://bucket/backup/a/c") as opened:
        assert opened is None
    stores.remove_folder("s3://bucket/backup")
    assert stores.is_empty("s3://bucket/backup")


def test_a_checkpoint_is_proved_by_its_hashes_alone(bucket: fsspec.AbstractFileSystem) -> None:
    saved = builders.tiny_checkpoint("s3://bucket/proved")
    seals.check(saved.reference, saved.sha256)
    bucket.pipe_file(f"{saved.reference.removeprefix('s3://')}/{seals.PARITY}", b"torn")
    with pytest.raises(CheckpointBroken, match=r"parity.safetensors of .* was changed"):
        seals.check(saved.reference, saved.sha256)


def test_what_is_written_anew_in_s3_is_not_removed(bucket: fsspec.AbstractFileSystem) -> None:
    address = "s3://bucket/inline/ab/abc"
    bucket.pipe_file(address, b"image")
    (found,) = strays.files("s3://bucket/inline")
    assert (found.address, found.num_bytes) == (address, 5)
    assert not strays.hold(address)
    assert not strays.remove(address, before_s=found.at_s)
    assert strays.remove(address, before_s=found.at_s + 60)
    assert list(strays.files("s3://bucket/inline")) == []
