"""Takes the settings. Gives a classify child its station: device, warm versions, decode threads, heartbeat.

Knows nothing of Celery. Importing it imports torch, so only a child of the pool does.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from sqlalchemy.orm import Session, sessionmaker

from db import registry, workers
from pipeline import devices, errors, images, references
from pipeline.serving.classifier import Classifier
from worker import heartbeat, serving
from worker.messages import Notice
from worker.settings import Settings
from worker.swap import Swap
from worker.warm import Warm


def open_serving(
    settings: Settings, sessions: sessionmaker[Session], tell: Callable[[Iterator[Notice]], None] = lambda _: None
) -> tuple[Callable[[int], serving.Tally], Callable[[], None]]:
    """Load and warm up what serves and start the heartbeat. Gives `sit` and `close`: from now the child takes work.

    Raises `DeviceUnavailable`. A version that will not load is reported in the ledger, not raised.
    """
    torch.set_num_threads(settings.torch_threads)
    device = devices.choose_device(settings.device)
    device_id = devices.device_id(device)
    warm = Warm(partial(_load, settings, device), most=len(settings.models) + settings.warm_versions - 1)
    station = _station(settings, sessions, warm, tell)
    swap = Swap(warm, sessions, settings.models)

    def describe() -> workers.Worker:
        return heartbeat.row(
            "classify",
            models=settings.models,
            device=str(device),
            device_id=device_id,
            state="busy" if station.held else "ready",
            warm=warm.names(),
            message=swap.trouble,
        )

    swap.load_serving()
    beating = heartbeat.Heartbeat(sessions, describe, chores=(partial(serving.extend_leases, station), swap.follow))
    beating.start()

    def close() -> None:
        beating.stop()
        station.pool.shutdown(cancel_futures=True)

    return partial(serving.sit, station), close


def _station(
    settings: Settings, sessions: sessionmaker[Session], warm: Warm, tell: Callable[[Iterator[Notice]], None]
) -> serving.Station:
    return serving.Station(
        owner=heartbeat.worker_name("classify"),
        sessions=sessions,
        warm=warm,
        pool=ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode"),
        roots=references.Roots.parse((*settings.allowed_roots, settings.inline_store)),
        limits=images.Limits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
        batch_size=settings.batch_size,
        claim_items=4 * settings.batch_size,
        sitting_s=settings.sitting_s,
        lease_s=settings.lease_s,
        max_attempts=settings.max_attempts,
        tell=tell,
    )


def _load(settings: Settings, device: torch.device, version: registry.Version) -> Classifier:
    try:
        return Classifier.open(
            version.reference,
            sha256=version.sha256,
            device=device,
            precision=settings.precision,
            batch_size=settings.batch_size,
        )
    except torch.OutOfMemoryError as full:
        raise errors.DeviceUnavailable(
            f"{device} has not enough memory for {version.name} beside what is warm; "
            "lower IMAGEMILL_BATCH_SIZE or IMAGEMILL_WARM_VERSIONS, or free the device."
        ) from full
