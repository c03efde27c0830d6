"""Thirty inputs made to do harm, among a hundred good ones: each gets its reason, and no neighbour pays for it.

The stack is real, and so are its connections. The Internet that its workers find is made up below their sockets, where
every private address leads to a canary.
"""

import json
import os
import shutil
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import bombs, builders, internet, web
from tests.chaos import rows
from tests.mills import Mill, open_mill
from worker.messages import Result

ONE, OTHER, METADATA = "93.184.216.34", "93.184.216.35", "169.254.169.254"
HOST = "images.example.org"
SITE = f"https://{HOST}"
#: Name -> what a name server answers, time after time.
NAMES = {
    HOST: [[ONE]],
    "impostor.example.org": [[OTHER]],
    "metadata.example.org": [[METADATA]],
    "loopback.example.org": [["127.0.0.1"]],
    "mapped.example.org": [["::ffff:127.0.0.1"]],
    "nat64.example.org": [["64:ff9b::7f00:1"]],
    "half.example.org": [[ONE, "10.0.0.5"]],
    "rebound.example.org": [[ONE], ["127.0.0.1"]],
}
CANARIES = ("127.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "10.0.0.5", METADATA)
NUM_GOOD, NUM_GOOD_URLS = 90, 10
#: Megabytes that a worker may take beside what it has, for images of a megapixel and files of a megabyte.
MOST_MB = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A running stack, the servers that its workers find, and the one that they must not."""

    mill: Mill
    site: web.Server
    canary: web.Server


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    home = Path(tempfile.mkdtemp(prefix="im-bad-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        authority = web.Authority(home)
        site = stack.enter_context(web.serving(_answers(), authority.context(HOST, "rebound.example.org")))
        canary = stack.enter_context(web.canary())
        routes = {f"{ONE} 443": site.port, f"{OTHER} 443": site.port}
        routes |= {f"{address} {port}": canary.port for address in CANARIES for port in (80, 443)}
        (home / "internet.json").write_text(json.dumps({"names": NAMES, "routes": routes}))
        shutil.copy(internet.__file__, home / "sitecustomize.py")
        monkeypatch.setenv("PYTHONPATH", str(home), prepend=os.pathsep)
        monkeypatch.setenv(internet.FILE, str(home / "internet.json"))
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        roots = (str(home / "images"), "https://*")
        yield World(mill=stack.enter_context(open_mill(home, allowed_roots=roots)), site=site, canary=canary)


def test_thirty_bad_inputs_cost_a_hundred_good_ones_nothing(world: World) -> None:
    mill = world.mill
    good = mill.write_images(NUM_GOOD, prefix="good") + [f"{SITE}/good-{n}.png" for n in range(NUM_GOOD_URLS)]
    bad = _bad_files(mill.images) | _bad_paths(mill.images) | BAD_URLS
    assert (len(good), len(bad)) == (100, 30)
    mixed = [reference for number, one in enumerate(good) for reference in (one, *list(bad)[number : number + 1])]
    pid = mill.child_pid("classify")
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is counted anew from here
    before_mb = _memory_mb(pid, "VmRSS")
    job = mill.client.submit(mixed, model="tiny")
    status = mill.client.wait(job.job_id, timeout_s=90)
    grown_mb = _memory_mb(pid, "VmHWM") - before_mb
    results = {result.reference: result for result in mill.client.results(job.job_id)}
    positions = mill.positions(job.job_id)
    rows.check(
        rows.Row.of(
            positions,
            len(mixed),
            number="25",
            fault="30 bad inputs among 100 good ones",
            database="sqlite",
            note=f"{status.num_succeeded} labels, {status.num_failed} reasons, "
            f"canary hits {world.canary.num_hits}, worker's memory +{grown_mb:.0f} MB at most",
        )
    )
    assert {reference: _fault(results[reference]) for reference in bad} == bad
    assert all(results[reference].label for reference in good)
    assert (status.state, status.num_succeeded, status.num_failed) == ("partial", 100, 30)
    assert world.canary.num_hits == 0
    assert grown_mb < MOST_MB
    assert mill.child_pid("classify") == pid, "the worker lives"


# ---------------------------------------------------------------- what is bad

CHOSEN = (
    "PNG of 2500 megapixels", "JPEG of many scans", "WEBP", "frame of a GIF", "BMP", "PNG with text",
    "PNG with many texts",
)  # fmt: skip


def _bad_files(folder: Path) -> dict[str, str]:
    """Write files that are bad to decode; give reference -> kind."""
    files = {f"{name}.png": (bombs.make(name), bombs.BOMBS[name][1]) for name in CHOSEN}
    files |= {
        "astray.jpg": (bombs.led_astray(bombs.LEADS["TEM"]), "unreadable"),
        "page.eps": (builders.encoded(builders.tiny_image(), "EPS"), "unsupported_format"),
        "scan.tiff": (builders.encoded(builders.tiny_image(), "TIFF"), "unsupported_format"),
        "layers.psd": (b"8BPS\0\1" + bytes(40), "unsupported_format"),
        "stars.fits": (b"SIMPLE  =                    T" + b" " * 2850, "unsupported_format"),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return {(folder / name).as_uri(): kind for name, (_, kind) in files.items()}


def _bad_paths(folder: Path) -> dict[str, str]:
    """Make names that lead where nothing may be read; give reference -> kind."""
    os.mkfifo(folder / "fifo.png")
    (folder / "link.png").symlink_to("/etc/hostname")
    (folder / "zeros.png").symlink_to("/dev/zero")
    return {
        f"file://{folder}/../../../../etc/hostname": "outside_roots",
        (folder / "link.png").as_uri(): "outside_roots",
        (folder / "zeros.png").as_uri(): "outside_roots",
        (folder / "fifo.png").as_uri(): "not_a_file",
        f"file://{folder}/a.png%00": "unreadable",
    }


#: URL -> kind.
BAD_URLS = {
    "https://loopback.example.org/": "forbidden_address",
    "https://mapped.example.org/": "forbidden_address",
    "https://nat64.example.org/": "forbidden_address",
    "https://half.example.org/": "forbidden_address",
    "https://rebound.example.org/again": "forbidden_address",
    f"{SITE}/to-metadata": "forbidden_address",
    f"{SITE}/to-http": "unsupported_scheme",
    "http://[::ffff:127.0.0.1]/": "unsupported_scheme",
    "https://[::ffff:127.0.0.1]/": "invalid_url",
    "https://2130706433/": "invalid_url",
    f"https://{HOST}@127.0.0.1/": "invalid_url",
    "https://impostor.example.org/": "untrusted_host",
    f"{SITE}/drip": "timed_out",
}


def _answers() -> dict[str, web.Answer]:
    def drip(connection: ssl.SSLSocket) -> None:
        connection.sendall(web.answer(200, "Content-Length: 100000"))
        for _ in range(100):  # twice as long as anyone waits
            connection.sendall(b"x")
            time.sleep(0.2)

    good = {f"/good-{n}.png": web.ok(builders.png_bytes(size=(32, 32), seed=n)) for n in range(NUM_GOOD_URLS)}
    return good | {
        "/again": web.redirect("/good-0.png"),
        "/to-metadata": web.redirect("https://metadata.example.org/latest/meta-data/"),
        "/to-http": web.redirect(f"http://{METADATA}/latest/meta-data/"),
        "/drip": drip,
    }


def _fault(result: Result) -> str:
    assert result.error is not None, f"{result.reference} was labelled {result.label}"
    return result.error.kind


def _memory_mb(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) / 1024
