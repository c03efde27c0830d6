"""Takes the store, the disks and the versions that serve. Gives whether what is written there stays, and is whole.

Knows nothing of what is in a checkpoint but its hashes.
"""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from db import registry
from pipeline import errors, seals, stores
from worker import messages
from worker.doctor.findings import Finding, away, ok, unsafe, warning

#: free bytes below which a disk is worth a look, and below which work fails soon
LOW_BYTES, FULL_BYTES = 2 * 1024**3, 256 * 1024**2
#: the one file of the folder that proves the store
PROOF = "proof"


def store(address: str) -> Finding:
    """Write a folder as checkpoints are written, read it back and remove it."""
    subject, content = "store", secrets.token_bytes(64)
    folder = f"{address.rstrip('/')}/.doctor-{secrets.token_hex(8)}"
    try:
        stores.write_folder(folder, {PROOF: content})
        read = stores.read_file(folder, PROOF)
        stores.remove_folder(folder)
    except errors.StoreUnreachable as wrong:
        return unsafe(
            subject,
            str(wrong),
            why="no version, report or inline image can be kept",
            mend="mend IMAGEMILL_STORE, its rights or its credentials; a read-only mount is right for classify alone",
        )
    if read != content:
        return unsafe(
            subject,
            f"The store at {address} does not give back what was written.",
            why="a checkpoint would be broken when it is needed",
            mend="look at the disk, or at what stands between",
        )
    how = "written, renamed" if address.startswith("file://") else "written"
    return ok(subject, f"A folder was {how}, read back and removed.")


def disks(folders: Iterable[Path], *, low_bytes: int = LOW_BYTES, full_bytes: int = FULL_BYTES) -> Iterator[Finding]:
    """Look at the free space of each disk that one of the folders lies on."""
    seen: set[int] = set()
    for folder in folders:
        there = next((one for one in (folder, *folder.parents) if one.exists()), None)
        if there is None or (device := there.stat().st_dev) in seen:
            continue
        seen.add(device)
        yield _free(there, shutil.disk_usage(there).free, low_bytes, full_bytes)


def _free(folder: Path, free: int, low_bytes: int, full_bytes: int) -> Finding:
    subject, what = "disk", f"{free / 1024**3:.1f} GiB are free at {folder}."
    mend = "make room: old logs, reports and features (they are computed again), or a larger disk"
    if free < full_bytes:
        return unsafe(subject, what, why="the ledger and Redis refuse work when the disk is full", mend=mend)
    if free < low_bytes:
        return warning(subject, what, why="a checkpoint or a night's outcomes may not fit", mend=mend)
    return ok(subject, what)


def folders(home: Path, store: str, database_url: str) -> list[Path]:
    """Name the folders of this machine that the installation writes to."""
    found = [home]
    if store.startswith("file://"):
        found.append(Path(messages.local_path(store)))
    if database_url.startswith("sqlite:///"):
        found.append(Path(database_url.removeprefix("sqlite:///")).parent)
    return found


def home(folder: Path) -> Finding:
    """Look at whether other users may write to the home folder."""
    if folder.exists() and folder.stat().st_mode & 0o002:
        return unsafe(
            "home",
            f"Every user of this machine may write to {folder}.",
            why="whoever does may put another ledger or socket there",
            mend=f"chmod o-w {folder}",
        )
    if folder.exists() and not os.access(folder, os.W_OK):
        return unsafe("home", f"We may not write to {folder}.", why="beat keeps its times there", mend="mend its owner")
    return ok("home", f"{folder} is ours alone to write to.")


def version(serving: registry.Version) -> Finding:
    """Hash the checkpoint of a version that serves."""
    return _whole(
        serving,
        "serves",
        why="a worker that starts cannot load it: work that is pinned to it waits",
        mend=f"imagemill models rollback {serving.model}, or restore a backup",
    )


def pinned(version: registry.Version) -> Finding:
    """Hash the checkpoint of a version that serves no more, and that unfinished jobs are pinned to."""
    return _whole(
        version,
        "has unfinished jobs",
        why="they wait for it: no other version may answer for it",
        mend="restore a backup, or cancel the jobs and submit them again",
    )


def _whole(version: registry.Version, fact: str, *, why: str, mend: str) -> Finding:
    subject = "model"
    try:
        seals.check(version.reference, version.sha256)
    except errors.CheckpointBroken as broken:
        return unsafe(
            subject,
            f"{version.name} {fact} and is broken: {broken}",
            why=why,
            mend=mend,
        )
    except errors.StoreUnreachable as gone:
        return away(subject, str(gone), mend="mend the store, then ask again")
    return ok(subject, f"{version.name} {fact} and is whole.")
