"""Takes the settings. Gives what runs compute with: device, decode threads, roots, store, and a folder for their state.

Knows nothing of any one run. Importing it imports torch, so a learn child does so with its first run.
"""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from sqlalchemy.orm import Session, sessionmaker

from pipeline import devices, images, references
from worker import readable
from worker.messages import local_path
from worker.settings import NUM_CORES, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What a learn child, or a command that plans, works with."""

    sessions: sessionmaker[Session]
    #: fsspec URL of checkpoints, manifests, features, scores and reports
    store: str
    #: where runs keep what they resume from; beside the store if that is on disks, for another host may go on
    folder: Path
    device: torch.device
    pool: ThreadPoolExecutor
    roots: references.Roots
    limits: images.Limits
    #: images in one forward pass without gradients
    batch_size: int
    #: bytes of decoded training images kept in memory
    pixel_cache_bytes: int

    @property
    def device_name(self) -> str:
        """The device as classify workers spell theirs."""
        return str(self.device)

    @property
    def device_id(self) -> str | None:
        """What names the device itself, as classify workers do."""
        return devices.device_id(self.device)

    def run_folder(self, run_id: int) -> Path:
        """Name the folder that a run resumes from."""
        return self.folder / str(run_id)

    def fetch(self, reference: str) -> bytes:
        """Read an image file that lies under the roots; raise ItemUnfetchable."""
        return references.fetch(reference, self.roots, max_bytes=self.limits.max_bytes)


def open_workshop(settings: Settings, sessions: sessionmaker[Session]) -> Workshop:
    """Choose the device and start the decode threads. Raises `DeviceUnavailable`."""
    torch.set_num_threads(settings.torch_threads or NUM_CORES)
    device = devices.choose_device(settings.device)
    return Workshop(
        sessions=sessions,
        store=settings.store,
        folder=_folder(settings),
        device=device,
        pool=ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode"),
        roots=readable.roots(settings),
        limits=readable.limits(settings),
        batch_size=devices.choose_batch_size(settings.batch_size, device),
        pixel_cache_bytes=settings.pixel_cache_bytes,
    )


@contextmanager
def opened(settings: Settings, sessions: sessionmaker[Session]) -> Iterator[Workshop]:
    """Give a workshop for a command; what its threads have not begun when it ends is dropped."""
    workshop = open_workshop(settings, sessions)
    try:
        yield workshop
    finally:
        workshop.pool.shutdown(cancel_futures=True)


def _folder(settings: Settings) -> Path:
    if settings.store.startswith("file://"):
        return Path(local_path(settings.store)) / "runs"
    return settings.home / "runs" / socket.gethostname()
