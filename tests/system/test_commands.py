"""`imagemill demo` and `imagemill up` as a user runs them: real processes, real signals, nothing left behind."""

import base64
import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from tests import builders
from tests.mills import PATIENCE_S, await_until, make_version, tiny_settings
from tests.servers import free_port
from worker import messages, runtime
from worker.app import create_app
from worker.settings import Settings


def test_the_demo_learns_five_digits_then_the_others_under_load_and_leaves_nothing_running(
    home: Path, imagemill: list[str]
) -> None:
    environ = {**os.environ, "IMAGEMILL_HOME": str(home)}
    told = subprocess.run(
        [*imagemill, "demo", "--json"], env=environ, capture_output=True, text=True, check=False, timeout=280
    )
    assert told.returncode == 0, told.stderr
    story = json.loads(told.stdout)
    before, after = story["before"], story["after"]
    assert before["first"] > 0.9
    assert before["later"] == 0.0
    assert min(after["first"], after["later"]) > 0.8
    assert [one["version"] for one in story["promotions"]] == ["digits:1", "digits:2"]
    assert after["versions"] == ["digits:2"]
    assert "digits:1 and digits:2" in told.stderr.replace("\n", " ")
    page = Path(story["report"].removeprefix("file://")).read_text()
    assert "digits:2" in page
    assert _processes_of(home) == []


def test_up_runs_the_stack_with_flower_behind_its_password_and_stops_on_ctrl_c(
    home: Path, imagemill: list[str]
) -> None:
    settings = tiny_settings(home, flower_port=free_port(), http_port=free_port())
    environ = {**os.environ, **settings.as_env()}
    log = home / "up.txt"
    with log.open("w") as out:
        up = subprocess.Popen([*imagemill, "up"], env=environ, stdout=out, stderr=out, start_new_session=True)
    try:
        await_until(lambda: "imagemill is up" in log.read_text() or up.poll() is not None, "the stack is up")
        assert up.poll() is None, log.read_text()
        with runtime.ledger(settings) as sessions:
            make_version(sessions, settings, "tiny", seed=1)
        image = Path(settings.allowed_roots[0]) / "one.png"
        image.write_bytes(builders.png_bytes(size=(32, 32)))
        # Flower knows of a task what happens while it listens.
        await_until(lambda: _status(settings.flower_port, "/workers") == 401, "Flower answers, and asks for a password")
        waited = subprocess.run(
            [*imagemill, "submit", "--model", "tiny", "--wait", str(image)],
            env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        assert waited.returncode == 0, waited.stderr
        await_until(lambda: _status(settings.http_port, "/healthcheck") == 200, "HTTP answers")
        assert _status(settings.http_port, "/v1/models") == 401
        key = home / "http.key"
        assert (key.stat().st_mode & 0o777, str(key) in log.read_text().replace("\n", "")) == (0o600, True)
        told = urllib.request.Request(f"http://127.0.0.1:{settings.http_port}/v1/models")
        told.add_header("Authorization", f"Bearer {key.read_text().strip()}")
        with urllib.request.urlopen(told, timeout=10) as answer:  # noqa: S310
            assert [one["serving"] for one in json.load(answer)["data"]] == ["tiny:1"]
        signs_in = re.search(r"user (\S+), password (\S+)\)", log.read_text()).groups()
        _check_flower(settings.flower_port, *signs_in)
        _check_flower_shows_what_is_answered_together(settings, settings.flower_port, *signs_in)
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(PATIENCE_S)
    assert up.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert _processes_of(home) == []


def test_a_stack_whose_parent_is_killed_leaves_nothing_running(home: Path, imagemill: list[str]) -> None:
    settings = tiny_settings(home, http_port=free_port())
    environ = {**os.environ, **settings.as_env()}
    with (home / "up.txt").open("w") as out:
        up = subprocess.Popen([*imagemill, "up", "--no-flower"], env=environ, stdout=out, stderr=out)
    await_until(lambda: len(_processes_of(home)) > 5, "all parts have been started")
    again = subprocess.run([*imagemill, "up", "--no-flower"], env=environ, capture_output=True, text=True, check=False)
    assert (again.returncode, "A stack already runs" in again.stderr) == (1, True)
    up.kill()
    up.wait(PATIENCE_S)
    await_until(lambda: _processes_of(home) == [], "every part has ended")


def _check_flower(port: int, user: str, password: str) -> None:
    right = f"{user}:{password}"
    assert _status(port, "/workers", f"{user}:wrong") == 401
    assert _status(port, "/workers", right) == 200
    assert _status(port, "/api/workers", right) == 200
    assert _status(port, "/api/worker/shutdown/classify@x", right, method="POST") in (403, 404, 405)
    await_until(lambda: "imagemill.classify.v1" in _body(port, "/api/tasks", right), "Flower has seen the task")
    task = next(
        one for one in json.loads(_body(port, "/api/tasks", right)).values() if one["name"] == "imagemill.classify.v1"
    )
    assert re.fullmatch(r"shard \d+, job [0-9a-f-]{36}, \d+ items, tiny:1", task["kwargs"])
    assert "png" not in _body(port, "/api/tasks", right)


def _check_flower_shows_what_is_answered_together(settings: Settings, port: int, user: str, password: str) -> None:
    """Check that messages which intake takes behind another show as well, and how long each queue is."""
    right = f"{user}:{password}"
    app = create_app(settings)
    question = {"kwargs": {"job_id": str(uuid.uuid4())}, "kwargsrepr": "job of nobody", "argsrepr": "()"}
    sent = {app.send_task(messages.STATUS, queue=messages.INTAKE_QUEUE, **question).id for _ in range(60)}
    app.close()
    seen: dict[str, dict[str, object]] = {}

    def is_seen() -> bool:
        seen.update(json.loads(_body(port, "/api/tasks?limit=1000", right)))
        return sent <= seen.keys() and all(seen[one]["state"] == "SUCCESS" for one in sent)

    await_until(is_seen, "Flower has seen every message")
    assert {(seen[one]["name"], seen[one]["kwargs"]) for one in sent} == {(messages.STATUS, "job of nobody")}
    queues = {one["name"] for one in json.loads(_body(port, "/api/queues/length", right))["active_queues"]}
    assert {"intake", "upkeep", "learn", "classify.tiny.bulk"} <= queues


def _request(port: int, path: str, credentials: str | None, method: str) -> urllib.request.Request:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    if credentials:
        request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
    return request


def _status(port: int, path: str, credentials: str | None = None, *, method: str = "GET") -> int:
    try:
        with urllib.request.urlopen(_request(port, path, credentials, method), timeout=10) as answer:  # noqa: S310
            return answer.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    except OSError:
        return 0


def _body(port: int, path: str, credentials: str) -> str:
    with urllib.request.urlopen(_request(port, path, credentials, "GET"), timeout=10) as answer:  # noqa: S310
        return answer.read().decode()


def _processes_of(home: Path) -> list[str]:
    """Command lines of living processes that have this home folder in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"IMAGEMILL_HOME={home}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return [line for line in found if line]
