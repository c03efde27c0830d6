"""Features are cached on a real S3 endpoint, on loopback, as they are on disk."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest
import torch
from moto.server import ThreadedMotoServer

from pipeline.errors import StoreUnreachable
from pipeline.learning.features import SHARD, FeatureCache


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    filesystem = fsspec.filesystem("s3")
    filesystem.mkdirs("bucket", exist_ok=True)
    yield filesystem
    type(filesystem).clear_instance_cache()
    server.stop()


def test_features_are_found_again_and_a_damaged_shard_is_not(bucket: fsspec.AbstractFileSystem) -> None:
    names, values = [f"{number:064x}" for number in range(4)], torch.arange(8.0).view(4, 2)
    first = FeatureCache.open("s3://bucket/store", "b", "p")
    assert first.missing(names) == names
    first.add(names[:3], values[:3])
    first.add(names[3:], values[3:])
    again = FeatureCache.open("s3://bucket/store", "b", "p")
    assert torch.equal(again.rows(names), values)
    for shard in bucket.find("bucket/store/features"):
        assert shard.endswith(SHARD)
        bucket.pipe_file(shard, b"damaged")
    assert FeatureCache.open("s3://bucket/store", "b", "p").missing(names) == names


def test_a_bucket_that_is_not_there_takes_no_features(bucket: fsspec.AbstractFileSystem) -> None:
    with pytest.raises(StoreUnreachable):
        FeatureCache.open("s3://nonesuch/store", "b", "p").add(["ab" * 32], torch.ones(1, 2))
