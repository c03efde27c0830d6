"""A classify child: warm before it takes work, visible in the ledger while it lives, gone when it closes."""

import base64
import threading
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from db import errors, registry, session, workers
from tests.worker import builders
from worker import heartbeat, station
from worker.settings import Settings

Sessions = sessionmaker[Session]


def alive(sessions: Sessions) -> list[workers.Alive]:
    with session.reading(sessions) as reading:
        return workers.list_alive(reading, within_s=30.0)


def settings(tmp_path: Path, photos: Path) -> Settings:
    return Settings(
        home=tmp_path,
        models=(builders.MODEL,),
        device="cpu",
        torch_threads=1,
        decode_threads=2,
        allowed_roots=(str(photos),),
    ).resolved()


def test_a_child_is_warm_and_visible_from_the_start_and_gone_at_the_end(
    sessions: Sessions, tmp_path: Path, photos: Path, version: registry.Version
) -> None:
    sit, close = station.open_serving(settings(tmp_path, photos), sessions)
    try:
        [shown] = alive(sessions)
        assert (shown.role, shown.state, shown.warm, shown.models) == ("classify", "ready", ("cats:1",), ("cats",))
        job_id = builders.submit(builders.desk(sessions, tmp_path), builders.write_images(photos, 1))
        assert sit(builders.shards(sessions, job_id)[0].id).num_items == 1
    finally:
        close()
    assert alive(sessions) == []
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_a_child_reads_the_images_that_intake_stored(
    sessions: Sessions, tmp_path: Path, photos: Path, version: registry.Version
) -> None:
    known = settings(tmp_path, photos)
    builders.write_images(photos, 1)
    image = (photos / "000.png").read_bytes()
    desk = builders.desk(sessions, tmp_path, inline_store=known.inline_store, max_inline_bytes=len(image))
    job_id = builders.submit(desk, [{"bytes": base64.b64encode(image).decode()}])
    sit, close = station.open_serving(known, sessions)
    sit(builders.shards(sessions, job_id)[0].id)
    close()
    [one] = builders.outcomes(sessions, job_id)
    assert one.error is None


def test_a_heartbeat_survives_a_chore_that_finds_the_ledger_away(sessions: Sessions) -> None:
    beats = threading.Semaphore(0)

    def chore() -> None:
        beats.release()
        if started.is_set():
            raise errors.LedgerUnreachable

    started = threading.Event()
    beating = heartbeat.Heartbeat(sessions, lambda: heartbeat.row("intake"), chores=[chore], every_s=0.01)
    beating.start()
    started.set()
    assert all(beats.acquire(timeout=10) for _ in range(4))
    assert [one.role for one in alive(sessions)] == ["intake"]
    beating.stop()
    assert alive(sessions) == []
