"""What Prometheus reads: counted while real sittings ran, and read from the ledger without touching an outcome."""

import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from db import counters, registry, session, workers
from tests.worker import builders
from worker import exposition, heartbeat, intake, measures, quotas, relay
from worker.meter import Meter, bound

Sessions = sessionmaker[Session]
DOCS = Path(__file__).parents[2] / "docs/metrics.md"


def page(sessions: Sessions, **how: object) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Read the page as Prometheus does: samples by name and labels."""
    told = exposition.Exposition(sessions=sessions, **({"look": dict} | how))
    text = told.page()[0].decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.type == "counter" and sample.labels and not sample.value:
                continue  # told from the start
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def labels(**named: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(named.items()))


def beat(sessions: Sessions, meter: Meter, **facts: object) -> None:
    """Do one heartbeat as a classify child does."""
    heartbeat.Heartbeat(sessions, lambda: heartbeat.row("classify", **facts), meter=meter).beat()


def test_what_sittings_did_is_on_the_page(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> None:
    station = builders.station(sessions, photos, pool)
    references = [*builders.write_images(photos, 9), f"file://{photos}/missing.png"]
    builders.sit(station, job(references, priority="interactive"))
    beat(sessions, station.meter, models=("cats",), warm=("cats:1",), images_per_s={"cats": 50.0})
    found = page(sessions)
    items = found["imagemill_items_total"]
    assert items == {labels(model="cats", outcome="succeeded"): 9.0, labels(model="cats", outcome="failed"): 1.0}
    assert found["imagemill_item_failures_total"] == {labels(model="cats", stage="fetch", kind="missing"): 1.0}
    spent = {dict(key)["stage"]: value for key, value in found["imagemill_stage_seconds_total"].items()}
    assert spent.keys() == {"claim", "fetch", "decode", "forward", "record"}
    assert 0 < max(spent.values()) < 60
    about = labels(model="cats", priority="interactive")
    assert found["imagemill_queue_wait_seconds_count"] == {about: 3.0}
    assert 0 <= found["imagemill_queue_wait_seconds_sum"][about] < 60
    assert found["imagemill_job_seconds_count"] == {about: 1.0}
    assert found["imagemill_jobs_total"] == {labels(model="cats", state="partial"): 1.0}
    fills = found["imagemill_batch_fill_ratio_bucket"]
    assert fills[labels(model="cats", le="+Inf")] - fills[labels(model="cats", le="0.9")] == 1.0, "one batch was full"
    assert found["imagemill_batch_fill_ratio_sum"] == {labels(model="cats"): pytest.approx(9 / 8)}
    [serving] = found["imagemill_serving_info"]
    assert (dict(serving)["model"], dict(serving)["version"]) == ("cats", "cats:1")
    [warm] = found["imagemill_warm_info"]
    assert dict(warm)["version"] == "cats:1"
    assert min(found["imagemill_worker_resident_bytes"].values()) > 1e6


def test_sums_outlive_the_process_that_counted(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> None:
    for first in (0, 4):
        station = builders.station(sessions, photos, pool)
        builders.sit(station, job(builders.write_images(photos, 4, first=first)))
        beating = heartbeat.Heartbeat(sessions, lambda: heartbeat.row("classify"), meter=station.meter, every_s=60.0)
        beating.start()
        builders.sit(station, job(builders.write_images(photos, 2, first=8 + first)))
        beating.stop()
    found = page(sessions)
    assert found["imagemill_items_total"] == {labels(model="cats", outcome="succeeded"): 12.0}
    assert "imagemill_worker_info" not in found


def test_what_could_not_be_written_down_is_counted_with_the_next_beat(sessions: Sessions) -> None:
    meter = Meter()
    meter.add(measures.EXPIRED, 3)
    broken = heartbeat.Heartbeat(sessions, lambda: heartbeat.row("upkeep", state="dancing"), meter=meter)
    with pytest.raises(Exception, match=r"(?i)check"):
        broken.beat()
    beat(sessions, meter)
    assert page(sessions)["imagemill_jobs_expired_total"] == {(): 3.0}


def test_four_who_count_at_once_lose_nothing_and_wait_in_one_order(sessions: Sessions) -> None:
    def count(number: int) -> None:
        for turn in range(20):
            meter = Meter()
            for model in ("abcd", "dcba")[(number + turn) % 2]:
                meter.add(measures.SUBMITTED, 1, model, "bulk")
            with session.transaction(sessions) as transaction:
                counters.add(transaction, meter.take())

    threads = [threading.Thread(target=count, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(page(sessions)["imagemill_items_submitted_total"].values()) == {80.0}


def test_what_waits_takes_its_seconds_at_the_pace_of_those_who_serve(sessions: Sessions, job: Callable) -> None:
    interactive, bulk = labels(model="cats", priority="interactive"), labels(model="cats", priority="bulk")
    job(["s3://photos/1.jpg"] * 10, priority="interactive")
    job(["s3://photos/1.jpg"] * 30)
    before = page(sessions)
    assert before["imagemill_items_waiting"] == {interactive: 10.0, bulk: 30.0}
    assert before["imagemill_serving_workers"] == {labels(model="cats"): 0.0}
    assert "imagemill_backlog_seconds" not in before, "nobody knows"
    for name, pace in (("one", 4.0), ("two", 1.0)):
        with session.transaction(sessions) as transaction:
            row = heartbeat.row("classify", name=name, models=("cats",), images_per_s={"cats": pace})
            workers.beat(transaction, row)
    found = page(sessions, max_waiting=1000)
    assert found["imagemill_backlog_seconds"] == {interactive: 2.0, bulk: 8.0}
    assert found["imagemill_items_unfinished"] == {(): 40.0}
    assert found["imagemill_items_unfinished_limit"] == {(): 1000.0}


def test_submissions_are_counted_by_what_became_of_them(sessions: Sessions, tmp_path: Path, version: object) -> None:
    desk = builders.desk(sessions, tmp_path, quotas=quotas.Quotas(max_waiting=4))
    wires = [builders.wire(["s3://photos/1.jpg"] * 3), builders.wire(["s3://photos/1.jpg"] * 9), {"items": []}]
    intake.submit_all(desk, [*wires, builders.wire(model="unheard-of")])
    beat(sessions, desk.meter)
    found = page(sessions)
    assert found["imagemill_items_submitted_total"] == {labels(model="cats", priority="bulk"): 3.0}
    assert found["imagemill_submissions_refused_total"] == {
        labels(kind="queue_full"): 1.0, labels(kind="invalid"): 1.0, labels(kind="unknown_model"): 1.0,
    }  # fmt: skip


def test_what_a_sweep_mended_is_counted(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> None:
    from worker import claiming

    job_id = job(builders.write_images(photos, 4))
    station = builders.station(sessions, photos, pool, lease_s=builders.OVER_S)
    claiming.claim(station, builders.shards(sessions, job_id)[0].id, 0.0)
    meter = Meter()
    relay.sweep(sessions, lambda _: None, lambda queues: dict.fromkeys(queues, 0), max_attempts=3).count(meter)
    beat(sessions, meter)
    found = page(sessions)
    assert found["imagemill_shards_reaped_total"] == {labels(how="returned"): 1.0}
    assert found["imagemill_bells_rung_again_total"] == {(): 1.0}


def test_a_page_reads_no_outcome_and_asks_little(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable
) -> None:
    builders.sit(builders.station(sessions, photos, pool), job(builders.write_images(photos, 4)))
    asked: list[str] = []
    engine = session.engine_of(sessions)
    event.listen(engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: asked.append(statement))
    told = exposition.Exposition(sessions=sessions, look=dict)
    told.page()
    assert not [statement for statement in asked if re.search(r"\boutcomes\b|\blabels\b(?!,)", statement)]
    assert len(asked) < 20
    once = len(asked)
    told.page()
    assert len(asked) == once, "a read that was just made is told again"


def test_a_ledger_or_a_redis_that_is_away_is_told_and_no_error(tmp_path: Path) -> None:
    def look() -> dict[str, int]:
        raise OSError("nobody listens")

    away = session.connect(f"sqlite:///{tmp_path}/missing/ledger.db")
    found = page(away, look=look)
    assert found == {"imagemill_ledger_up": {(): 0.0}, "imagemill_broker_up": {(): 0.0}}


@pytest.mark.parametrize(("value", "told"), [(0.0, "0.005"), (0.005, "0.005"), (0.3, "0.5"), (1e9, "+Inf")])
def test_a_value_lies_in_the_first_column_that_holds_it(value: float, told: str) -> None:
    assert bound(measures.QUEUE_WAIT, value) == told


def test_names_follow_prometheuss_practice() -> None:
    units = ("seconds", "bytes", "ratio", "info", "total", "per_second", "timestamp_seconds")
    for one in measures.ALL:
        assert one.name.startswith("imagemill_")
        assert (one.kind == "counter") == one.name.endswith("_total"), one.name
        assert (one.kind == "histogram") == bool(one.bounds), one.name
        assert one.kind != "histogram" or one.name.endswith(units), one.name
        assert not one.about.endswith("."), one.name
    names = [one.name for one in measures.ALL]
    assert len(set(names)) == len(names)


def test_promtool_finds_nothing_to_say(sessions: Sessions, photos: Path, pool: Executor, job: Callable) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (Debian: prometheus); the page was parsed by the tests above")
    station = builders.station(sessions, photos, pool)
    builders.sit(station, job(builders.write_images(photos, 4)))
    beat(sessions, station.meter, models=("cats",), images_per_s={"cats": 50.0})
    told = exposition.Exposition(sessions=sessions, look=lambda: {"intake": 3}).page()[0]
    ran = subprocess.run([promtool, "check", "metrics"], input=told, capture_output=True, check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, b"")


def test_the_page_about_them_names_every_measure_as_the_code_does() -> None:
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{name}`' for name in one.labels)} | {one.about} |"
        for one in measures.ALL
    ]
    written = re.findall(r"^\| `imagemill_.*$", DOCS.read_text(), flags=re.MULTILINE)
    assert written == rows


def test_what_was_never_counted_is_told_at_nought(sessions: Sessions, version: registry.Version) -> None:
    # Prometheus overlooks the first rise of what was not there: an alert on it would come one too late.
    text = exposition.Exposition(sessions=sessions, look=dict).page()[0].decode()
    for told in (
        'imagemill_items_total{model="cats",outcome="failed"}', 'imagemill_shards_reaped_total{how="failed"}',
        'imagemill_submissions_refused_total{kind="queue_full"}', 'imagemill_leases_lost_total{model="cats"}',
        "imagemill_jobs_expired_total",
    ):  # fmt: skip
        assert f"\n{told} 0.0\n" in text


def test_models_that_were_never_served_are_told_too(sessions: Sessions, version: registry.Version) -> None:
    assert page(sessions)["imagemill_items_waiting"].keys() == {
        labels(model="cats", priority="interactive"),
        labels(model="cats", priority="bulk"),
    }
