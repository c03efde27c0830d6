"""The compose file's own commands, environment and secrets, run without containers: do they work together?"""

import base64
import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.orm import Session, sessionmaker

from db import labels, session, workers
from tests import builders, composition, mills, servers
from tests.composition import ASKED_OVER_HTTP, OURS, Site
from worker.settings import PREFIX, Settings

SERVICES = composition.services()
#: seconds within which everything must be healthy, and an idle service must end, on a busy two-core machine
PATIENCE_S = 90.0
END_S = 30.0
NUM_IMAGES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The services as processes of this machine."""

    site: Site
    processes: "dict[str, subprocess.Popen[bytes]]"

    def secret(self, name: str) -> str:
        return (self.site.secrets / name).read_text().strip()

    def logs(self) -> str:
        return "\n".join(f"== {name}\n{self.site.log(SERVICES[name]).read_text()[-2000:]}" for name in self.processes)


@pytest.fixture(scope="module")
def running(postgres: servers.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Redis, the migration and our services, healthy by their own checks, with a model to serve."""
    postgres.execute("CREATE DATABASE composed")
    site = make_site(tmp_path_factory.mktemp("compose"), database_url=postgres.url("composed"))
    with started(site, "redis") as redis_process:
        await_healthy(site, "redis")
        assert site.run(SERVICES["migrate"], *ours("migrate"), timeout_s=PATIENCE_S) == 0
        with started(site, *OURS) as processes:
            up = Running(site=site, processes=processes | redis_process)
            prepare(site)
            for name in OURS:
                await_healthy(site, name)
            yield up
    postgres.execute("DROP DATABASE composed WITH (FORCE)")


def make_site(folder: Path, *, database_url: str) -> Site:
    """Make the secrets as documented, then name this machine's Redis and PostgreSQL in them."""
    redis_port, flower_port, webhook_port = (servers.free_port() for _ in range(3))
    site = Site(folder=folder, redis_port=redis_port, flower_port=flower_port, webhook_port=webhook_port)
    composition.make_secrets(site.secrets)
    broker = site.secrets / "broker_url"
    broker.write_text(broker.read_text().replace("@redis:6379", f"@127.0.0.1:{site.redis_port}"))
    (site.secrets / "database_url").write_text(database_url)
    with (site.secrets / "redis_acl").open("a") as users:
        users.write("user auditor on nopass -@all +acl|log +config|get\n")
    for mount in ("images", "redis", "store"):
        (folder / mount).mkdir()
    return site


def ours(name: str) -> list[str]:
    """Give what a container of the service runs."""
    entrypoint = [] if name == "redis" else composition.ENTRYPOINT
    return [*entrypoint, *SERVICES[name].command]


@contextmanager
def started(site: Site, *names: str) -> "Iterator[dict[str, subprocess.Popen[bytes]]]":
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in names:
            here = ["--port", str(site.redis_port), "--bind", "127.0.0.1"] if name == "redis" else []
            processes[name] = site.start(SERVICES[name], *ours(name), *here)
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def await_healthy(site: Site, name: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while site.run(SERVICES[name], *SERVICES[name].health, timeout_s=PATIENCE_S) != 0:
        assert time.monotonic() < deadline, f"{name} is not healthy:\n{site.log(SERVICES[name]).read_text()[-4000:]}"
        time.sleep(0.2)


def prepare(site: Site) -> None:
    """Let a model serve, and wait until every worker has beaten: a health check costs a start of Python each time."""
    settings = settings_of(site)
    sessions = session.connect(settings.database_url)
    mills.make_version(sessions, settings, "default", seed=1)
    deadline = time.monotonic() + PATIENCE_S
    while missing := set(OURS) - set(ASKED_OVER_HTTP) - alive(sessions):
        assert time.monotonic() < deadline, f"{missing} do not beat"
        time.sleep(0.2)
    session.engine_of(sessions).dispose()


def settings_of(site: Site) -> Settings:
    environ = site.environment(SERVICES["cli"])
    return Settings.from_env({name: value for name, value in environ.items() if name.startswith(PREFIX)})


def alive(sessions: sessionmaker[Session]) -> set[str]:
    with session.reading(sessions) as reading:
        return {worker.role for worker in workers.list_alive(reading, within_s=PATIENCE_S)}


def ask(running: Running, path: str, *, credentials: str = "", method: str = "GET") -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{running.site.flower_port}{path}", method=method)
    if credentials:
        request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_a_job_goes_through(running: Running) -> None:
    for seed in range(NUM_IMAGES):
        (running.site.images / f"{seed}.png").write_bytes(builders.png_bytes(size=(32, 32), seed=seed))
    cli = SERVICES["cli"]
    submit = [*composition.ENTRYPOINT, "submit", "--wait", "--timeout", "60", "--json", "/images"]
    assert running.site.run(cli, *submit, timeout_s=PATIENCE_S) == 0, running.logs()
    status = json.loads(running.site.log(cli).read_text().splitlines()[-1])
    assert (status["state"], status["num_succeeded"]) == ("succeeded", NUM_IMAGES)


def test_a_label_of_label_studio_comes_in_by_the_webhook(running: Running) -> None:
    # Its picture lies in the folder that both have, so that the reference is the container's.
    (running.site.images / "cat.png").write_bytes(builders.png_bytes(size=(32, 32), seed=77))
    choice = {"from_name": "kind", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
    payload = {
        "action": "ANNOTATION_CREATED",
        "task": {"id": 1, "data": {"image": "/data/local-files/?d=cat.png"}},
        "annotation": {"id": 7, "task": 1, "result": [choice], "updated_at": "2026-11-24T10:00:00Z"},
    }
    assert post(running, payload, token="wrong-" * 4) == 401
    assert post(running, payload, token=running.secret("webhook_token")) == 200, running.logs()
    sessions = session.connect(settings_of(running.site).database_url)
    with session.reading(sessions) as reading:
        [known] = labels.current(reading, "default")
    session.engine_of(sessions).dispose()
    assert (known.label, known.reference) == ("cat", f"file://{running.site.images}/cat.png")


def post(running: Running, payload: dict[str, object], *, token: str) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.site.webhook_port}/label-studio",
        data=json.dumps(payload).encode(),
        headers={"Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - loopback
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


@pytest.mark.parametrize(
    ("path", "method", "signed_in", "code"),
    [
        ("/workers", "GET", False, 401),
        ("/workers", "GET", True, 200),
        ("/api/workers", "GET", False, 401),
        ("/api/workers", "GET", True, 200),
        ("/api/worker/shutdown/x", "POST", False, 401),
        ("/api/worker/shutdown/x", "POST", True, 403),
        ("/api/task/send-task/x", "POST", True, 403),
    ],
)
def test_flower_shows_only_to_those_who_sign_in_and_changes_nothing(
    running: Running, path: str, method: str, signed_in: bool, code: int
) -> None:
    credentials = running.secret("flower_basic_auth") if signed_in else ""
    assert ask(running, path, credentials=credentials, method=method) == code
    assert ask(running, path, credentials="imagemill:wrong", method=method) == 401


def test_no_service_asked_redis_for_what_it_may_not_do(running: Running) -> None:
    with redis.Redis(port=running.site.redis_port, username="auditor", password="any") as auditor:
        denied = {entry["object"] for entry in auditor.acl_log() if entry["username"] == "imagemill"}
    # Before Redis 7.2, redis-py's courtesy of naming itself (CLIENT SETINFO) is refused, and it does not mind.
    assert denied <= {"client"}


@pytest.mark.parametrize(
    ("signs_in", "answer"),
    [({}, "Authentication required"), ({"username": "imagemill", "password": "wrong"}, "invalid username-password")],
    ids=["stranger", "impostor"],
)
def test_redis_answers_nobody_without_the_password(running: Running, signs_in: dict[str, str], answer: str) -> None:
    # With protocol 3 the client would first say hello, and be refused that; retries would only take time.
    options = {"port": running.site.redis_port, "protocol": 2, "retry": Retry(NoBackoff(), 0)}
    with redis.Redis(**options, **signs_in) as client, pytest.raises(redis.AuthenticationError, match=answer):
        client.ping()


def test_redis_keeps_what_it_was_told_and_evicts_nothing(running: Running) -> None:
    with redis.Redis(port=running.site.redis_port, username="auditor", password="any") as auditor:
        names = ("appendonly", "appendfsync", "save", "maxmemory-policy", "maxmemory")
        config = {name: auditor.execute_command("CONFIG GET", name)[name] for name in names}
    assert config == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "maxmemory": str(512 * 2**20),
    }


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("imagemill", "FLUSHALL"),
        ("imagemill", "CONFIG GET *"),
        ("imagemill", "ACL LIST"),
        ("imagemill", "KEYS *"),
        ("imagemill", "GET of-somebody-else"),
        ("health", "LLEN imagemill:intake"),
        ("health", "INFO"),
    ],
)
def test_redis_lets_each_user_do_its_own_work_alone(running: Running, user: str, command: str) -> None:
    password = urlsplit(running.secret("broker_url")).password if user == "imagemill" else "any"
    with (
        redis.Redis(port=running.site.redis_port, username=user, password=password) as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(*command.split())


def test_everything_ends_by_itself_when_told_and_leaves_nothing_in_the_working_folder(running: Running) -> None:
    for name in OURS:
        running.processes[name].send_signal(signal.SIGTERM)
    assert {name: running.processes[name].wait(END_S) for name in OURS} == dict.fromkeys(OURS, 0), running.logs()
    assert list((running.site.folder / "cwd").iterdir()) == []
    running.processes["redis"].send_signal(signal.SIGTERM)
    assert running.processes["redis"].wait(END_S) == 0
