"""What a worker may read, and the sentence for everything it may not."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import ItemUnfetchable
from pipeline.references import Roots, fetch

MAX_BYTES = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file in it, and a secret beside it."""
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (tmp_path / "root-twin").mkdir()
    (tmp_path / "root-twin" / "a.jpg").write_bytes(b"twin")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.jpg").write_bytes(b"bytes")
    (root / "käse #1?.jpg").write_bytes(b"odd name")
    (root / "empty.jpg").touch()
    (root / "large.jpg").write_bytes(b"x" * (MAX_BYTES + 1))
    (root / "exact.jpg").write_bytes(b"x" * MAX_BYTES)
    (root / "link-out.jpg").symlink_to(tmp_path / "secret.txt")
    (root / "folder-out").symlink_to(tmp_path)
    (root / "link-in.jpg").symlink_to(root / "a.jpg")
    (root / "link-zero").symlink_to("/dev/zero")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "fifo")
    return root


def get(reference: str, *roots: str, max_bytes: int = MAX_BYTES) -> bytes:
    return fetch(reference, Roots.parse(roots), max_bytes=max_bytes)


@pytest.mark.parametrize(
    ("reference", "data"),
    [
        ("{root}/a.jpg", b"bytes"),
        ("file://{root}/a.jpg", b"bytes"),
        ("file://localhost{root}/a.jpg", b"bytes"),
        ("file://{root}/k%C3%A4se%20%231%3F.jpg", b"odd name"),
        ("{root}/käse #1?.jpg", b"odd name"),
        ("{root}/sub/../a.jpg", b"bytes"),
        ("{root}/link-in.jpg", b"bytes"),
        ("{root}/exact.jpg", b"x" * MAX_BYTES),
    ],
)
def test_a_file_under_a_root_is_read(root: Path, reference: str, data: bytes) -> None:
    assert get(reference.format(root=root), str(root)) == data


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("{root}/../secret.txt", "outside_roots"),
        ("{root}/link-out.jpg", "outside_roots"),
        ("{root}/folder-out/secret.txt", "outside_roots"),
        ("{root}-twin/a.jpg", "outside_roots"),
        ("file://{root}/%2e%2e/secret.txt", "outside_roots"),
        ("file://elsewhere{root}/a.jpg", "outside_roots"),
        ("/etc/passwd", "outside_roots"),
        ("/dev/zero", "outside_roots"),
        ("{root}/link-zero", "outside_roots"),
        ("a.jpg", "outside_roots"),
        ("", "outside_roots"),
        ("{root}/none.jpg", "missing"),
        ("{root}/a.jpg/b", "missing"),
        ("{root}/loop", "missing"),
        ("{root}/" + "n" * 300, "missing"),
        ("{root}/\udcff\ud800.jpg", "missing"),
        ("{root}", "not_a_file"),
        ("{root}/fifo", "not_a_file"),
        ("{root}/empty.jpg", "empty"),
        ("{root}/large.jpg", "too_large"),
        ("{root}/a.jpg\0", "unreadable"),
        ("file://{root}/a.jpg%00", "unreadable"),
        ("s3://bucket/a.jpg", "unsupported_scheme"),
        ("gopher://host/a.jpg", "unsupported_scheme"),
        ("simplecache::file://{root}/a.jpg", "unsupported_scheme"),
    ],
)
@pytest.mark.timeout(20)
def test_anything_else_is_refused_with_its_kind(root: Path, reference: str, kind: str) -> None:
    with pytest.raises(ItemUnfetchable) as caught:
        get(reference.format(root=root), str(root))
    assert (caught.value.stage, caught.value.kind) == ("fetch", kind)
    assert caught.value.message.endswith(".")


def test_what_is_no_file_is_not_even_opened(root: Path) -> None:
    """To open a device can have effects (a watchdog starts to count down); here a writer waits for a reader."""
    os.mkfifo(root / "watched")
    (root / "link-watched").symlink_to(root / "watched")
    writer = threading.Thread(target=lambda: os.close(os.open(root / "watched", os.O_WRONLY)), daemon=True)
    writer.start()
    for name in ("watched", "link-watched") * 50:  # again and again, for the writer takes a moment to come
        with pytest.raises(ItemUnfetchable, match="not a regular file"):
            get(f"{root}/{name}", str(root))
        writer.join(0.003)
    assert writer.is_alive()
    reader = os.open(root / "watched", os.O_RDONLY | os.O_NONBLOCK)
    writer.join(10)
    os.close(reader)


def test_a_hard_link_is_the_file_itself(root: Path) -> None:
    """It cannot be told from any other name of the file; Linux lets nobody link to what is not theirs to write."""
    os.link(root.parent / "secret.txt", root / "hard.jpg")
    assert get(f"{root}/hard.jpg", str(root)) == b"secret"


#: swaps a name between something in the root and a link that leads out of it, as fast as it can, while somebody looks
SWAP = """
import os, sys
name, decoy, parked = sys.argv[1:]
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    os.rename(name, parked), os.rename(decoy, name), os.rename(name, decoy), os.rename(parked, name)
"""


@pytest.mark.parametrize("swapped", ["folder", "file"])
def test_no_race_leads_out_of_the_root(root: Path, swapped: str) -> None:
    """Names are swapped between every two steps of a fetch, over thousands of them."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "a.jpg").write_bytes(b"secret")
    (root / "place").mkdir()
    (root / "place" / "a.jpg").write_bytes(b"bytes")
    (root / "place" / "decoy").symlink_to(outside / "a.jpg")
    (root / "decoy").symlink_to(outside)
    folder, name = (root, "place") if swapped == "folder" else (root / "place", "a.jpg")
    arguments = [str(folder / part) for part in (name, "decoy", "parked")]
    seen: Counter[object] = Counter()
    with subprocess.Popen([sys.executable, "-S", "-c", SWAP, *arguments], stdout=subprocess.PIPE) as swapping:
        swapping.stdout.readline()
        try:
            for _ in range(8000):
                try:
                    seen[get(f"{root}/place/a.jpg", str(root))] += 1
                except ItemUnfetchable as refused:
                    seen[refused.kind] += 1
        finally:
            swapping.kill()
    assert seen.keys() <= {b"bytes", "outside_roots", "missing"}
    assert min(seen[b"bytes"], seen["outside_roots"]) > 0, "both were found, so there was a race"


def test_an_unreadable_file_is_refused(root: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file, whatever its permissions")
    (root / "a.jpg").chmod(0)
    with pytest.raises(ItemUnfetchable, match="permissions"):
        get(f"{root}/a.jpg", str(root))


def test_a_root_that_is_a_link_allows_what_it_points_at(root: Path) -> None:
    alias = root.parent / "alias"
    alias.symlink_to(root)
    assert get(f"{alias}/a.jpg", str(alias)) == b"bytes"
    assert get(f"{root}/a.jpg", str(alias)) == b"bytes"


def test_without_roots_nothing_is_read(root: Path) -> None:
    with pytest.raises(ItemUnfetchable, match="outside the allowed roots"):
        get(f"{root}/a.jpg")


def test_the_root_directory_allows_every_file(root: Path) -> None:
    assert get(f"{root}/a.jpg", "/") == b"bytes"


@pytest.fixture
def memory() -> fsspec.AbstractFileSystem:
    """A store that is not local, without a server."""
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({"/bucket/in/a.jpg": b"bytes", "/bucket/inner/b.jpg": b"b", "/bucket/in/empty.jpg": b""})
    filesystem.pipe("/bucket/in/large.jpg", b"x" * (MAX_BYTES + 1))
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


@pytest.mark.usefixtures("memory")
def test_an_object_under_a_root_is_read() -> None:
    assert get("memory://bucket/in/a.jpg", "memory://bucket/in/") == b"bytes"


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("memory://bucket/inner/b.jpg", "outside_roots"),
        ("memory://bucket/in/../inner/b.jpg", "outside_roots"),
        ("memory://bucket/in/%2e%2e/inner/b.jpg", "outside_roots"),
        ("memory://bucket/in/none.jpg", "missing"),
        ("memory://bucket/in/large.jpg", "too_large"),
        ("memory://bucket/in/empty.jpg", "empty"),
        ("memory://bucket/in/a.jpg::file:///etc/passwd", "unsupported_scheme"),
    ],
)
def test_an_object_that_may_not_be_read_is_refused(reference: str, kind: str) -> None:
    with pytest.raises(ItemUnfetchable) as caught:
        get(reference, "memory://bucket/in")
    assert caught.value.kind == kind


@pytest.mark.parametrize("text", ["", "relative/folder", "s3://", "s3:///"], ids=repr)
def test_a_root_that_names_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        Roots.parse([text])


def test_an_item_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ItemUnfetchable("missing", "There is no such file.")))  # noqa: S301
    assert (error.stage, error.kind, str(error)) == ("fetch", "missing", "There is no such file.")
