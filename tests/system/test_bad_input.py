"""A bad image costs its neighbours nothing and the worker not its life."""

import os
import struct
import zlib
from pathlib import Path

from tests import builders
from tests.mills import Mill
from worker.messages import Result


def test_each_bad_item_gets_one_error_and_its_neighbours_their_labels(mill: Mill) -> None:
    folder = mill.images / "bad"
    folder.mkdir(exist_ok=True)
    good = mill.write_images(20, prefix="neighbour")
    bad = _bad(folder)
    pid = mill.child_pid("classify")
    mixed = [reference for pair in zip(good, bad, strict=False) for reference in pair] + good[len(bad) :]
    job = mill.client.submit(mixed, model="tiny")
    status = mill.client.wait(job.job_id, timeout_s=60)
    results = {result.reference: result for result in mill.client.results(job.job_id)}
    assert (status.state, status.num_failed, status.num_succeeded) == ("partial", len(bad), len(good))
    assert all(results[reference].label for reference in good)
    assert {_name(r): _fault(results[r]) for r in bad} == dict(zip(map(_name, bad), bad.values(), strict=True))
    assert all(results[reference].error.message.endswith((".", "?")) for reference in bad)
    assert mill.child_pid("classify") == pid


def _bad(folder: Path) -> dict[str, tuple[str, str]]:
    """Write one of each fault; give reference -> (stage, kind)."""
    jpeg = builders.jpeg_bytes(size=(64, 64))
    files = {
        "empty.png": (b"", ("fetch", "empty")),
        "text.jpg": (b"this is no image at all, only text", ("decode", "not_an_image")),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], ("decode", "truncated")),
        "huge.png": (_bomb(50_000, 50_000), ("decode", "too_many_pixels")),
        "large.png": (b"\x89PNG\r\n\x1a\n" + bytes(1_100_000), ("fetch", "too_large")),
        "picture.tiff": (builders.encoded(builders.tiny_image(), "TIFF"), ("decode", "unsupported_format")),
        "page.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', ("decode", "unsupported_format")),
        "random.png": (b"\x89PNG\r\n\x1a\n" + os.urandom(300), ("decode", "unreadable")),
    }
    faults = {}
    for name, (data, fault) in files.items():
        (folder / name).write_bytes(data)
        faults[(folder / name).as_uri()] = fault
    faults[(folder / "missing.png").as_uri()] = ("fetch", "missing")
    faults[folder.as_uri()] = ("fetch", "not_a_file")
    faults["file:///etc/passwd"] = ("fetch", "outside_roots")
    faults[(folder / "../../../../etc/hostname").as_uri()] = ("fetch", "outside_roots")
    fifo = folder / "fifo.png"
    if not fifo.exists():
        os.mkfifo(fifo)
    faults[fifo.as_uri()] = ("fetch", "not_a_file")
    link = folder / "link.png"
    if not link.exists():
        link.symlink_to("/etc/hostname")
    faults[link.as_uri()] = ("fetch", "outside_roots")
    faults["gopher://example.org/x.png"] = ("fetch", "unsupported_scheme")
    return faults


def _bomb(width: int, height: int) -> bytes:
    """A 1-bit PNG of `width` x `height` zeros: kilobytes that would unpack to hundreds of megabytes."""
    rows = zlib.compress(bytes((width // 8 + 1) * 100), 9)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def _fault(result: Result) -> tuple[str, str]:
    assert result.error is not None, f"{result.reference} was labelled {result.label}"
    return result.error.stage, result.error.kind
