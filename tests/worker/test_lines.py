"""Lines of the log, as text and as JSON: what they concern is on each, and nothing that is nobody's business."""

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from tests.worker import builders
from worker import lines, serving
from worker.cli import stack

Sessions = sessionmaker[Session]
#: what a signed reference holds, and nobody may read in a log
CANARY = "X-Amz-Signature=5ecre7canary"


@pytest.fixture(params=["json", "text"])
def log(request: pytest.FixtureRequest) -> Iterator[tuple[str, io.StringIO]]:
    """All that is logged, at every level, in one format."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(lines.Json("classify") if request.param == "json" else lines.Text())
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield request.param, out
    root.removeHandler(handler)
    root.setLevel(before)


def read(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_sittings_lines_name_job_shard_and_version_and_no_reference(
    sessions: Sessions, photos: Path, pool: Executor, job: Callable, log: tuple[str, io.StringIO]
) -> None:
    form, out = log
    broken = photos / "broken.png"
    broken.write_bytes(b"no image")
    bad = [f"file://{photos}/gone.png?{CANARY}", broken.as_uri(), f"https://bucket.example/a.png?{CANARY}"]
    job_id = job([*builders.write_images(photos, 1), *bad])
    station = builders.station(sessions, photos, pool)
    [shard] = builders.shards(sessions, job_id)

    with lines.about(shard=shard.id):
        tally = serving.sit(station, shard.id)
        logging.getLogger("worker.tasks.classify").info("shard %s: %s", shard.id, tally)
    told = out.getvalue()
    for secret in (CANARY, "gone.png", "broken.png", "bucket.example", str(photos)):
        assert secret not in told
    if form == "json":
        last = read(out)[-1]
        assert last["role"] == "classify"
        assert (last["job"], last["shard"], last["version"]) == (str(job_id), str(shard.id), "cats:1")
        assert last["message"].startswith(f"shard {shard.id}: 4 items (3 failed)")
        assert {"time", "level", "logger", "process"} <= last.keys()
    else:
        assert told.splitlines()[-1].endswith(f"[job={job_id} shard={shard.id} version=cats:1]")


def test_a_line_outside_of_any_work_concerns_nothing(log: tuple[str, io.StringIO]) -> None:
    form, out = log
    with lines.about(run=7):
        lines.found(model="cats")
        logging.getLogger("x").warning("inside")
        with lines.about(run=8):
            logging.getLogger("x").warning("deeper")
        threading.Thread(target=logging.getLogger("x").warning, args=("elsewhere",)).start()
    lines.found(model="dogs")
    logging.getLogger("x").warning("outside")
    if form == "json":
        by_message = {line["message"]: line for line in read(out)}
        assert (by_message["inside"]["run"], by_message["inside"]["model"]) == ("7", "cats")
        assert (by_message["deeper"]["run"], by_message["deeper"]["model"]) == ("8", "cats")
        assert "run" not in by_message["elsewhere"]
        assert "run" not in by_message["outside"]
        assert "model" not in by_message["outside"]
    else:
        assert [line.endswith("]") for line in out.getvalue().splitlines()][:2] == [True, True]


def test_whatever_the_message_holds_it_stays_one_line_of_json(log: tuple[str, io.StringIO]) -> None:
    form, out = log
    try:
        int("two\nlines")
    except ValueError:
        logging.getLogger("x").exception('a "quoted"\nmessage')
    if form == "json":
        [line] = read(out)
        assert line["message"] == 'a "quoted"\nmessage'
        assert "ValueError: invalid literal" in str(line["exception"])


@pytest.mark.parametrize("form", [lines.Json("intake"), lines.Text()], ids=["json", "text"])
def test_up_finds_what_a_part_complained_of_in_either_form(form: logging.Formatter, tmp_path: Path) -> None:
    file = tmp_path / "intake.log"
    record = logging.LogRecord("worker.runtime", logging.ERROR, "", 0, "the schema is old", (), None)
    file.write_text(f"7\n{form.format(record)}\n" + '{"cut off')
    assert stack._complaint(file).endswith("worker.runtime: the schema is old")
