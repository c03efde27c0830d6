"""The compose file's own commands, environment and secrets, run without containers: do they work together?"""

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import celery
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.orm import Session, sessionmaker

from db import keys, labels, session, workers
from tests import builders, composition, mills, servers
from tests.composition import ASKED_OVER_HTTP, OURS, Site
from tests.http.calls import Calls
from worker import messages
from worker.cli import processes
from worker.client import Client, Refused
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
        with started(site, *OURS) as ours_started:
            up = Running(site=site, processes=ours_started | redis_process)
            prepare(site)
            for name in OURS:
                await_healthy(site, name)
            yield up
    postgres.execute("DROP DATABASE composed WITH (FORCE)")


def make_site(folder: Path, *, database_url: str) -> Site:
    """Make the secrets as documented, then name this machine's Redis and PostgreSQL in them."""
    names = ("redis_port", "flower_port", "http_port", "webhook_port")
    site = Site(folder=folder, **{name: servers.free_port() for name in names})
    composition.make_secrets(site.secrets)
    for address in ("broker_url", "producer_url", "http_broker_url", "flower_broker_url"):
        file = site.secrets / address
        file.write_text(file.read_text().replace("@redis:6379", f"@127.0.0.1:{site.redis_port}"))
    # This server asks for no password, and is given one that must not be seen anywhere.
    password = (site.secrets / "postgres_password").read_text().strip()
    (site.secrets / "database_url").write_text(database_url.replace("imagemill@", f"imagemill:{password}@"))
    acl = site.secrets / "redis_acl"
    if not composition.knows_selectors():
        acl.write_text(re.sub(r" \([^)]*\)", "", acl.read_text()))
    with acl.open("a") as users:
        users.write("user auditor on nopass ~* &* +@all\n")
    for mount in ("images", "redis", "store"):
        (folder / mount).mkdir()
    return site


def ours(name: str) -> list[str]:
    """Give what a container of the service runs."""
    entrypoint = [] if name == "redis" else composition.ENTRYPOINT
    return [*entrypoint, *SERVICES[name].command]


@contextmanager
def started(site: Site, *names: str) -> "Iterator[dict[str, subprocess.Popen[bytes]]]":
    begun: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in names:
            here = ["--port", str(site.redis_port), "--bind", "127.0.0.1"] if name == "redis" else []
            begun[name] = site.start(tempted(SERVICES[name]), *ours(name), *here)
        yield begun
    finally:
        for process in begun.values():
            process.kill()
            process.wait()


def tempted(service: composition.Service) -> composition.Service:
    """Give the service with a variable around it that would open a Flower without a password."""
    tempting = {"environment": service.environment | {"FLOWER_UNAUTHENTICATED_API": "true"}}
    return replace(service, body={**service.body, **tempting}) if service.name == "flower" else service


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
    return read(running, path, credentials=credentials, method=method)[0]


def read(running: Running, path: str, *, credentials: str, method: str = "GET") -> tuple[int, str]:
    """Ask Flower for a page; gives the code and the page."""
    request = urllib.request.Request(f"http://127.0.0.1:{running.site.flower_port}{path}", method=method)
    if credentials:
        request.add_header("Authorization", f"Basic {base64.b64encode(credentials.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


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


def test_a_job_comes_in_over_http_and_wakes_classify_itself(running: Running) -> None:
    (running.site.images / "http.png").write_bytes(builders.png_bytes(size=(32, 32), seed=78))
    sessions, secret = session.connect(settings_of(running.site).database_url), keys.draw()
    with session.transaction(sessions) as transaction:
        keys.add(transaction, secret, name="shop", scopes=("submit",))
    session.engine_of(sessions).dispose()
    calls = Calls(port=running.site.http_port, key=secret)
    job = calls.post("/v1/jobs", {"items": [f"{running.site.images}/http.png"]})
    assert job.status == 202, running.logs()
    done = calls.get(f"/v1/jobs/{job.json['id']}?wait_s=30").json
    assert (done["status"], calls.get(done["results_url"]).lines[0]["error"]) == ("succeeded", None)
    assert "no bell" not in running.site.log(SERVICES["http"]).read_text()


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
        ("/", "GET", False, 401),
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


def test_a_producer_asks_for_all_it_may_and_redis_lets_it(running: Running) -> None:
    picture = running.site.images / "produced.png"
    picture.write_bytes(builders.png_bytes(size=(32, 32), seed=55))
    with Client(running.secret("producer_url"), timeout_s=PATIENCE_S) as client:
        [result] = client.classify([str(picture)], timeout_s=PATIENCE_S)
        receipt = client.submit([str(picture)] * 2)
        assert client.wait(receipt.job_id, timeout_s=PATIENCE_S).num_succeeded == 2
        assert [one.label for one in client.results(receipt.job_id)] == [result.label] * 2
        assert client.cancel(receipt.job_id).state == "succeeded"
        assert client.label([(str(picture), "cat")]).num_labels == 1
        with pytest.raises(Refused, match="is no run 7"):
            client.run_status(7)
        client.ping()


#: a service that knows Celery alone, as docs/how-to/hand-over-images.md has it
BARE = """
import sys, uuid
from celery import Celery
url, reference = sys.argv[1:]
print(Celery(broker=url, backend=url).send_task(
    "imagemill.submit.v1", queue="imagemill:intake", kwargs={"job_id": str(uuid.uuid4()), "items": [reference]}
).get(timeout=30)["ok"]["state"])
"""


def submit_bare(running: Running, reference: str) -> str:
    script = [sys.executable, "-I", "-c", BARE, running.secret("producer_url"), reference]
    told = subprocess.run(script, cwd=running.site.folder, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    return told.stdout.strip()


def test_a_producer_without_our_code_reads_its_receipt(running: Running) -> None:
    assert submit_bare(running, f"file://{running.site.images}/0.png") == "accepted"


def test_flower_shows_workers_and_tasks_and_no_reference(running: Running) -> None:
    credentials = running.secret("flower_basic_auth")
    tasks = list(json.loads(read(running, "/api/tasks", credentials=credentials)[1]).values())
    assert {"imagemill.submit.v1", "imagemill.classify.v1"} <= {task["name"] for task in tasks}
    assert "/images" not in json.dumps(tasks)
    page = f"/worker/intake@{socket.gethostname()}"
    # It asks the worker itself, and gives it a second.
    mills.await_until(lambda: read(running, page, credentials=credentials)[0] == 200, "Flower shows a worker")
    assert "imagemill.submit.v1" in read(running, page, credentials=credentials)[1]


def test_flower_counts_what_waits_in_each_queue(running: Running) -> None:
    if not composition.knows_selectors():
        pytest.skip("this Redis is older than 7 and knows no rights in brackets, which the composition's does")
    credentials = running.secret("flower_basic_auth")

    def lengths() -> dict[str, int]:
        # Flower asks workers for their queues when it meets them, and again when it is told to.
        read(running, "/api/workers?refresh=true", credentials=credentials)
        status, told = read(running, "/api/queues/length", credentials=credentials)
        return {one["name"]: one["messages"] for one in json.loads(told)["active_queues"]} if status == 200 else {}

    queues = {"intake", "upkeep", "learn", "classify.default.interactive", "classify.default.bulk"}
    mills.await_until(lambda: queues <= lengths().keys(), "Flower has asked every worker for its queues")
    # It may count, or there would be no answer at all; what comes in is taken at once.
    assert all(isinstance(length, int) for length in lengths().values())
    assert ">intake<" in re.sub(r"\s+", "", read(running, "/broker", credentials=credentials)[1])


def test_no_service_asked_redis_for_what_it_may_not_do(running: Running) -> None:
    with redis.Redis(port=running.site.redis_port, username="auditor", password="any") as auditor:
        denied = {entry["object"] for entry in auditor.acl_log() if entry["username"] in RIGHTS}
    # Before Redis 7.2, redis-py's courtesy of naming itself (CLIENT SETINFO) is refused, and it does not mind.
    assert denied <= {"client"}


def test_a_worker_takes_no_orders_from_whoever_may_ask_it(running: Running) -> None:
    before = {name: process.poll() for name, process in running.processes.items()}
    orders = celery.Celery(broker=running.secret("flower_broker_url"), set_as_current=False)
    orders.conf.broker_transport_options = messages.transport_options() | processes.FLOWERS_OWN
    orders.control.shutdown()
    orders.control.cancel_consumer("intake")
    assert len(orders.control.inspect(timeout=30.0, limit=4).ping()) == 4
    orders.close()
    assert {name: process.poll() for name, process in running.processes.items()} == before
    with Client(running.secret("producer_url"), timeout_s=PATIENCE_S) as client:
        assert len(client.classify([f"file://{running.site.images}/0.png"], timeout_s=PATIENCE_S)) == 1


@pytest.mark.parametrize(
    ("signs_in", "answer"),
    [({}, "Authentication required"), ({"username": "worker", "password": "wrong"}, "invalid username-password")],
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


#: what each user may not do; that it may do its work, the tests above have shown
RIGHTS = {
    "worker": [
        "FLUSHALL", "FLUSHDB", "SHUTDOWN", "CONFIG GET *", "ACL LIST", "KEYS *", "DEBUG SLEEP 0", "SAVE", "MONITOR",
        "GET of-somebody-else", "SET of-somebody-else x", "PUBLISH of-somebody-else x", "PSUBSCRIBE *",
    ],
    "producer": [
        "LRANGE imagemill:intake 0 -1", "RPOP imagemill:intake", "BRPOP imagemill:intake 1",
        "LTRIM imagemill:intake 1 0", "DEL imagemill:intake",
        "UNLINK imagemill:intake", "EXPIRE imagemill:intake 1", "SET imagemill:intake x",
        "RENAME imagemill:intake imagemill:intake2", "LPUSH imagemill:classify.default.bulk x",
        "LPUSH imagemill:learn x", "LPUSH imagemill:upkeep x", "HGETALL imagemill:unacked", "GET imagemill:unacked",
        "KEYS *", "SCAN 0", "RANDOMKEY", "EVAL return 0", "PUBLISH imagemill:/0.celery.pidbox x", "PSUBSCRIBE *",
        "SUBSCRIBE imagemill:/0.celeryev/worker.heartbeat", "PUBLISH celery-task-meta-x x",
        "SET celery-task-meta-x forged", "FLUSHALL", "CONFIG GET *", "ACL LIST", "CLIENT LIST", "INFO",
    ],
    "http": [
        "LRANGE imagemill:intake 0 -1", "RPOP imagemill:intake", "DEL imagemill:intake", "SET imagemill:intake x",
        "LRANGE imagemill:classify.default.bulk 0 -1", "DEL imagemill:classify.default.bulk", "LPUSH imagemill:learn x",
        "LPUSH imagemill:upkeep x", "HGETALL imagemill:unacked", "XREAD STREAMS imagemill:listening:x 0", "KEYS *",
        "SCAN 0", "RANDOMKEY", "EVAL return 0", "PUBLISH imagemill:/0.celery.pidbox x", "PSUBSCRIBE *",
        "SUBSCRIBE imagemill:/0.celeryev/worker.heartbeat", "PUBLISH celery-task-meta-x x",
        "SET celery-task-meta-x forged", "FLUSHALL", "CONFIG GET *", "ACL LIST", "CLIENT LIST", "INFO",
    ],
    "flower": [
        "LPUSH imagemill:intake x", "LRANGE imagemill:intake 0 -1", "RPOP imagemill:intake",
        "LLEN imagemill:unacked", "LLEN imagemill:listening:x", "DEL imagemill:intake", "HGETALL imagemill:unacked",
        "GET celery-task-meta-x", "DEL celery-task-meta-x",
        "XREAD STREAMS imagemill:listening:x 0", "SUBSCRIBE celery-task-meta-x", "KEYS *", "SCAN 0", "RANDOMKEY",
        "EXPIRE imagemill:intake 1", "FLUSHALL", "CONFIG GET *", "ACL LIST", "PSUBSCRIBE *",
    ],
    "health": ["LLEN imagemill:intake", "INFO", "GET x", "SUBSCRIBE x", "CONFIG GET *"],
}  # fmt: skip


@pytest.mark.parametrize("user", RIGHTS)
def test_redis_lets_each_user_do_its_own_work_alone(running: Running, user: str) -> None:
    urls = {
        "worker": "broker_url",
        "producer": "producer_url",
        "http": "http_broker_url",
        "flower": "flower_broker_url",
    }
    url = urls.get(user)
    password = urlsplit(running.secret(url)).password if url else "any"
    with redis.Redis(port=running.site.redis_port, username=user, password=password) as client:
        client.ping()
        allowed = [command for command in RIGHTS[user] if not is_denied(client, command)]
    assert allowed == []


def is_denied(client: "redis.Redis", command: str) -> bool:
    try:
        client.execute_command(*command.split())
    except redis.exceptions.NoPermissionError:
        return True
    except redis.RedisError as refused:
        return "command not allowed" in str(refused)  # to anybody, as Redis 7 says of DEBUG before it looks who asks
    return False


def test_secrets_are_nowhere_but_in_their_files_and_references_only_where_they_must_be(running: Running) -> None:
    signed = "https://pictures.example.org/1.jpg?X-Amz-Signature=" + uuid.uuid4().hex
    pages = ("/workers", "/tasks", "/api/tasks", "/api/workers?refresh=true", f"/worker/intake@{socket.gethostname()}")
    with redis.Redis(port=running.site.redis_port, username="auditor", password="any") as auditor:
        with heard(auditor) as events, Client(running.secret("producer_url"), timeout_s=PATIENCE_S) as client:
            [result] = client.classify([signed], timeout_s=PATIENCE_S)
            assert (result.reference, result.error is not None) == (signed, True), "answers name it, and the ledger"
            receipt = client.submit([signed])
            assert client.wait(receipt.job_id, timeout_s=PATIENCE_S).state == "failed"
            assert [one.reference for one in client.results(receipt.job_id)] == [signed]
            assert client.label([(signed, "cat")]).refused[0].reference == signed
            submit_bare(running, signed)
            junk = {"headers": {"task": "imagemill.submit.v2", "id": "x"}, "body": signed}
            auditor.lpush("imagemill:intake", signed, json.dumps(junk))
            mills.await_until(lambda: not auditor.exists("imagemill:intake"), "the junk is dropped")
            mills.await_until(lambda: is_told(events, "imagemill.results.v1"), "the question is in the events")
            client.ping()
        shown = [read(running, page, credentials=running.secret("flower_basic_auth"))[1] for page in pages]
        kept = {key: contents(auditor, key) for key in auditor.scan_iter()}
    said = "".join(log.read_text(errors="replace") for log in running.site.folder.glob("*.log"))
    assert "bytes from the queue intake" in said, "the junk was in the log"

    told = "\n".join([said, *shown, *events]).encode()
    # Who waits for a job is told how it ended, in a stream that lasts a minute.
    left = b"".join(text for key, text in kept.items() if not key.startswith(b"imagemill:listening:"))
    for spelled in spellings(signed):
        assert spelled not in told + left, "nothing names it any more once its answer was read"
    appended = b"".join(file.read_bytes() for file in (running.site.folder / "redis").rglob("*.aof"))
    everywhere = b"".join([told, appended, *kept.values()])
    for secret in passwords(running):
        for spelled in spellings(secret):
            assert spelled not in everywhere


#: how the values of each type are read, from end to end
READ: dict[bytes, Callable[["redis.Redis", bytes], object]] = {
    b"string": lambda server, key: server.get(key),
    b"list": lambda server, key: server.lrange(key, 0, -1),
    b"hash": lambda server, key: server.hgetall(key),
    b"set": lambda server, key: server.smembers(key),
    b"zset": lambda server, key: server.zrange(key, 0, -1),
    b"stream": lambda server, key: server.xrange(key),
    b"none": lambda *_: None,
}


def contents(server: "redis.Redis", key: bytes) -> bytes:
    """Give a key and what it holds."""
    return key + repr(READ[server.type(key)](server, key)).encode()


def passwords(running: Running) -> list[str]:
    names = ("broker_url", "producer_url", "flower_broker_url", "http_broker_url", "database_url")
    urls = [running.secret(name) for name in names]
    flower = running.secret("flower_basic_auth").partition(":")[2]
    alone = [running.secret("postgres_password"), running.secret("webhook_token"), flower]
    return [*alone, *(urlsplit(url).password or "" for url in urls[:4]), urls[4]]


def spellings(text: str) -> list[bytes]:
    """Give the text as it is, and what of it shows in base64, wherever it begins there."""
    shifted = [base64.b64encode(b"x" * shift + text.encode())[4:-4] for shift in range(3)]
    return [text.encode(), *shifted]


def is_told(events: list[str], text: str) -> bool:
    return any(spelled in event.encode() for event in events for spelled in spellings(text))


@contextmanager
def heard(auditor: "redis.Redis") -> Iterator[list[str]]:
    """Collect the events of workers meanwhile."""
    events: list[str] = []
    with auditor.pubsub() as subscriber:
        subscriber.psubscribe("*celeryev*")
        collecting = threading.Event()

        def collect() -> None:
            while not collecting.is_set():
                message = subscriber.get_message(timeout=0.1)
                if message is not None:
                    events.append(str(message["data"]))

        thread = threading.Thread(target=collect)
        thread.start()
        try:
            yield events
        finally:
            collecting.set()
            thread.join()


def test_secrets_of_before_are_brought_to_what_is_needed_now(tmp_path: Path) -> None:
    old = tmp_path / "secrets"
    composition.make_secrets(old)
    for name in ("producer_url", "http_broker_url", "flower_broker_url"):
        (old / name).unlink()
    composition.renew_secrets(old)
    new = tmp_path / "secrets.new"
    kept = ("postgres_password", "database_url", "flower_basic_auth", "webhook_token")
    assert all((new / name).read_text() == (old / name).read_text() for name in kept)
    assert (new / "broker_url").read_text() != (old / "broker_url").read_text()
    assert {file.name for file in new.iterdir()} > {file.name for file in old.iterdir()}


def test_everything_ends_by_itself_when_told_and_leaves_nothing_in_the_working_folder(running: Running) -> None:
    for name in OURS:
        running.processes[name].send_signal(signal.SIGTERM)
    assert {name: running.processes[name].wait(END_S) for name in OURS} == dict.fromkeys(OURS, 0), running.logs()
    assert list((running.site.folder / "cwd").iterdir()) == []
    running.processes["redis"].send_signal(signal.SIGTERM)
    assert running.processes["redis"].wait(END_S) == 0
