"""Takes the settings. Gives a classify child its station: device, warm versions, decoder, threads, heartbeat.

Knows nothing of Celery. Importing it imports torch, so only a child of the pool does.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from sqlalchemy.orm import Session, sessionmaker

from db import registry, workers
from pipeline import decoders, devices, errors
from pipeline.serving import layouts
from pipeline.serving.classifier import Classifier
from worker import claiming, heartbeat, readable, serving, sittings, tracing
from worker.messages import Notice
from worker.settings import Settings
from worker.swap import Swap
from worker.warm import Warm

#: Batches that are claimed at once from what waits: recorded in one transaction, as far as they end together.
BATCHES_CLAIMED = 8

log = logging.getLogger(__name__)


def open_serving(
    settings: Settings,
    sessions: sessionmaker[Session],
    tell: Callable[[Iterator[Notice]], None] = lambda _: None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> tuple[Callable[[int], sittings.Tally], Callable[[], None]]:
    """Load and warm up what serves and start the heartbeat. Gives `sit` and `close`: from now the child takes work.

    Raises `DeviceUnavailable`. A version that will not load is reported in the ledger, not raised.
    """
    torch.set_num_threads(settings.torch_threads or settings.num_cores)
    device = devices.choose_device(settings.device)
    device_id = devices.device_id(device)
    warm = Warm(partial(_load, settings, device), most=len(settings.models) + settings.warm_versions - 1)
    swap = Swap(warm, sessions, settings.models)
    swap.load_serving()

    def is_to_end() -> bool:
        return is_stopping() or beating.is_asked_to_drain

    station = _station(settings, sessions, warm, device, tell, is_to_end)

    def describe() -> workers.Worker:
        return heartbeat.row(
            "classify",
            models=settings.models,
            device=str(device),
            device_id=device_id,
            state="busy" if station.held else "ready",
            warm=warm.names(),
            message=swap.trouble,
            images_per_s=dict(station.paces) or None,
            readings=heartbeat.memory() | devices.memory(device),
        )

    chores = (partial(claiming.extend_leases, station), swap.follow)
    beating = heartbeat.Heartbeat(sessions, describe, chores=chores, meter=station.meter)
    beating.start()

    def close() -> None:
        beating.stop()
        station.pool.shutdown(cancel_futures=True)
        station.lanes.shutdown(cancel_futures=True)
        if station.tracer:
            station.tracer.close()

    return partial(serving.sit, station), close


def _station(
    settings: Settings,
    sessions: sessionmaker[Session],
    warm: Warm,
    device: torch.device,
    tell: Callable[[Iterator[Notice]], None],
    is_stopping: Callable[[], bool],
) -> sittings.Station:
    layout = _layout(settings, warm, device)
    batch_size = settings.batch_size or layout.batch_size
    decoder = decoders.choose(settings.decoder)
    log.info(
        "%s lanes of %s threads, batches of %s, JPEGs by %s",
        layout.num_lanes, layout.num_threads, batch_size, decoder.name,
    )  # fmt: skip
    return sittings.Station(
        owner=heartbeat.worker_name("classify"),
        sessions=sessions,
        warm=warm,
        # One thread each: an image is too small to be shared out, and the cores have their lanes.
        pool=ThreadPoolExecutor(settings.decode_threads, "decode", initializer=torch.set_num_threads, initargs=(1,)),
        per_host=max(1, settings.decode_threads * 3 // 4),
        decoder=decoder,
        lanes=layout.open_pool(),
        num_lanes=layout.num_lanes,
        roots=readable.roots(settings),
        limits=readable.limits(settings),
        batch_size=batch_size,
        claim_items=BATCHES_CLAIMED * batch_size,
        sitting_s=settings.sitting_s,
        lease_s=settings.lease_s,
        max_attempts=settings.max_attempts,
        models=settings.models,
        recalls=settings.recall,
        tell=tell,
        is_stopping=is_stopping,
        tracer=tracing.open_tracer(settings, "classify"),
    )


def _layout(settings: Settings, warm: Warm, device: torch.device) -> layouts.Layout:
    if device.type == "cuda":
        return layouts.ON_CUDA
    if settings.torch_threads:
        return layouts.of(settings.torch_threads, settings.num_cores)
    return layouts.fastest(warm.any(), settings.num_cores)


def _load(settings: Settings, device: torch.device, version: registry.Version) -> Classifier:
    try:
        return Classifier.open(
            version.reference,
            sha256=version.sha256,
            device=device,
            precision=settings.precision,
            batch_size=devices.choose_batch_size(settings.batch_size, device),
        )
    except torch.OutOfMemoryError as full:
        raise errors.DeviceUnavailable(
            f"{device} has not enough memory for {version.name} beside what is warm; "
            "lower IMAGEMILL_BATCH_SIZE or IMAGEMILL_WARM_VERSIONS, or free the device."
        ) from full
