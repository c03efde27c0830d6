"""What is wrong with an installation is found, each fault provoked for real; a worker does not start on the worst."""

import http.server
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy.orm import Session, sessionmaker

from db import migrate, registry, session
from pipeline import checkpoints
from tests import servers
from tests.worker.machine import Machine, sentence
from worker.app import create_app
from worker.doctor import (
    addresses,
    broker,
    clocks,
    configuration,
    examination,
    exposure,
    ledger,
    packages,
    storage,
)
from worker.doctor.findings import Finding, InstallationUnsafe, Severity
from worker.settings import Settings, secret_files

#: a user with the rights of docs/deploy.md, as far as Redis 6.2 spells them
FEW_RIGHTS = [
    "on",
    ">pw",
    "~imagemill:*",
    "&*",
    "-@all",
    "+@read",
    "+@write",
    "+@connection",
    "+eval",
    "+time",
    "-@dangerous",
]


def told(found: Iterable[Finding], subject: str) -> list[tuple[str, str]]:
    """Severity and sentence of each finding about a subject; whatever is wrong says why, and how to mend it."""
    about = [one for one in found if one.subject == subject]
    assert all(one.why and one.mend for one in about if one.severity >= Severity.WARNING)
    return [(str(one.severity), one.what) for one in about]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An installation in a folder of its own."""
    (tmp_path / "home").mkdir()
    return Settings(home=tmp_path / "home").resolved()


@contextmanager
def redis_of(settings: Settings, *options: str, user: str = "") -> Iterator[broker.Server]:
    """A real Redis on a port, seen as the workers see it."""
    with servers.redis_on_port(*options) as port:
        if user:
            with redis.Redis(port=port) as owner:
                owner.execute_command("ACL", "SETUSER", user, *FEW_RIGHTS)
        signs_in = f"{user}:pw@" if user else ""
        app = create_app(Settings(home=settings.home, broker_url=f"redis://{signs_in}127.0.0.1:{port}/0").resolved())
        with broker.connected(app) as server:
            yield server


# ---------------------------------------------------------------- Redis


@pytest.mark.parametrize(
    ("policy", "severity"), [("noeviction", "ok"), ("volatile-lru", "warning"), ("allkeys-lru", "unsafe")]
)
def test_a_redis_that_may_evict_a_queue_is_unsafe(settings: Settings, policy: str, severity: str) -> None:
    with redis_of(settings, "--maxmemory-policy", policy) as server:
        [(found, what)] = told(broker.policy(server, tries=False), "redis policy")
    assert found == severity
    assert policy in what or policy == "noeviction"


@pytest.mark.parametrize(("appends", "severity"), [("yes", "ok"), ("no", "warning")])
def test_a_redis_in_memory_alone_is_slow_after_a_restart_and_no_more(
    settings: Settings, appends: str, severity: str
) -> None:
    with redis_of(settings, "--appendonly", appends) as server:
        [(found, _)] = told(broker.policy(server, tries=False), "redis persistence")
    assert found == severity


@pytest.mark.parametrize("tries", [False, True])
def test_what_a_redis_keeps_to_itself_is_unknown_and_no_worker_asks_for_it(settings: Settings, tries: bool) -> None:
    with redis_of(settings, "--maxmemory-policy", "allkeys-lru", user="imagemill") as server:
        found = [*broker.policy(server, tries=tries), *broker.access(server)]
        with redis.Redis(port=server.port) as owner:
            denied = {entry["object"] for entry in owner.acl_log() if entry["username"] == "imagemill"}
    assert told(found, "redis policy") == [
        ("unknown", "Redis keeps its configuration from user imagemill, as it should.")
    ]
    assert told(found, "redis rights") == [("ok", "User imagemill may do nothing dangerous.")]
    assert ("info" in denied) is tries


def test_a_redis_without_a_password_is_a_warning_on_the_loopback_and_unsafe_beyond(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_of(settings) as server:
        assert told(broker.access(server), "redis access")[0][0] == "warning"
        # No test listens beyond the loopback: 127.0.0.1 plays this machine's other address.
        monkeypatch.setattr(addresses, "is_loopback", lambda _: False)
        [(severity, what)] = told(broker.access(server), "redis access")
    assert severity == "unsafe"
    assert what == f"Redis lets anybody in at 127.0.0.1:{server.port}, without a password."


def test_a_redis_that_asks_for_a_password_lets_nobody_in_and_its_owner_may_too_much(settings: Settings) -> None:
    with servers.redis_on_port("--requirepass", "pw") as port:
        app = create_app(Settings(home=settings.home, broker_url=f"redis://:pw@127.0.0.1:{port}/0").resolved())
        with broker.connected(app) as server:
            found = [*broker.access(server)]
    assert told(found, "redis access") == [("ok", "Redis lets nobody in without a password.")]
    [(severity, what)] = told(found, "redis rights")
    assert (severity, "ACL LIST" in what) == ("warning", True)


def test_an_old_redis_is_a_warning_on_a_private_socket_and_unsafe_on_a_port(redis_url: str, settings: Settings) -> None:
    with broker.connected(create_app(Settings(home=settings.home, broker_url=redis_url).resolved())) as private:
        assert broker.version(private).severity == Severity.WARNING
        assert told(broker.access(private), "redis access") == [("ok", "Redis listens on a private socket.")]
        Path(private.socket).chmod(0o777)
        assert told(broker.access(private), "redis access")[0][0] == "warning"
    with redis_of(settings) as public:
        assert broker.version(public).severity == Severity.UNSAFE


@pytest.mark.parametrize(
    ("version", "severity"),
    [
        ((6, 2, 23), "unsafe"), ((6, 2, 24), "ok"), ((7, 0, 15), "unsafe"), ((7, 2, 16), "ok"), ((7, 4, 10), "unsafe"),
        ((7, 4, 11), "ok"), ((8, 0, 5), "unsafe"), ((8, 2, 9), "ok"), ((9, 0, 0), "unknown"),
    ],
    ids=str,
)  # fmt: skip
def test_each_branch_of_redis_has_its_floor(version: tuple[int, ...], severity: str) -> None:
    server = broker.Server(client=None, version=version, name="redis", user="", host="queue", port=1, socket="")
    assert str(broker.version(server).severity) == severity


# ---------------------------------------------------------------- Celery, packages, variables


def test_our_own_configuration_is_in_order(settings: Settings) -> None:
    found = [*configuration.check(create_app(settings).conf, settings, {})]
    assert {one.severity for one in found if one.subject != "cuda"} == {Severity.OK}


@pytest.mark.parametrize(
    ("changed", "subject"),
    [
        ({"worker_pool": "threads"}, "pool"),
        ({"worker_pool_start_method": "fork"}, "pool"),
        ({"worker_concurrency": 2}, "pool"),
        ({"visibility_timeout": 60}, "timeouts"),
        ({"result_backend_transport_options": {}}, "timeouts"),
        ({"task_time_limit": 3600}, "timeouts"),
        ({"broker_transport_options": {"visibility_timeout": 1500}}, "key prefix"),
    ],
    ids=str,
)
def test_a_changed_pool_timeout_or_prefix_is_unsafe(settings: Settings, changed: dict, subject: str) -> None:
    app = create_app(settings)
    app.conf.update(changed)
    [(severity, _)] = told(configuration.check(app.conf, settings, {}), subject)
    assert severity == "unsafe"


@pytest.mark.parametrize("name", configuration.BEHIND_OUR_BACK)
def test_a_variable_that_celery_reads_behind_our_back_is_unsafe(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "redis://elsewhere/0")
    [(severity, what)] = told(
        configuration.check(create_app(settings).conf, settings, {name: "redis://elsewhere/0"}), "environment"
    )
    assert (severity, name in what) == ("unsafe", True)


def test_a_parent_that_has_loaded_torch_is_found_out() -> None:
    code = "from worker.doctor import configuration; print(configuration.cuda().severity)"
    for before, severity in (("", "ok"), ("import torch;", "warning")):
        ran = subprocess.run([sys.executable, "-c", before + code], capture_output=True, text=True, check=True)
        assert ran.stdout.split() == [severity]


@pytest.mark.parametrize("floor", packages.FLOORS, ids=lambda floor: floor.package)
def test_a_package_with_known_holes_is_unsafe(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, floor: packages.Floor
) -> None:
    assert told(packages.check(settings), "packages")[0][0] == "ok"
    installed = tmp_path / f"{floor.package}-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {floor.package}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    [(severity, what)] = told(packages.check(settings), "packages")
    assert (severity, what) == ("unsafe", f"{floor.package} 1.0 is older than {floor.version}.")


@pytest.mark.parametrize(
    ("python", "root", "severity"),
    [
        ((3, 11, 9), "https://photos.example", "warning"),
        ((3, 11, 10), "https://photos.example", "ok"),
        ((3, 11, 9), "/photos", "ok"),
    ],
)
def test_an_old_python_matters_where_references_are_fetched_over_http(
    settings: Settings, python: tuple[int, ...], root: str, severity: str
) -> None:
    there = Settings(home=settings.home, allowed_roots=(root,))
    assert told(packages.check(there, python), "python")[0][0] == severity


# ---------------------------------------------------------------- ledger and clocks


def test_a_ledger_of_another_release_is_unsafe(empty_database_url: str) -> None:
    sessions = session.connect(empty_database_url)
    with session.engine_of(sessions).begin() as connection:
        migrate.upgrade_within(connection, "0003")
    found = ledger.schema(sessions)
    assert (found.severity, found.mend) == (Severity.UNSAFE, "imagemill db upgrade")
    migrate.upgrade(empty_database_url)
    assert ledger.schema(sessions).severity == Severity.OK
    with session.engine_of(sessions).begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'from_tomorrow'")
    found = ledger.schema(sessions)
    assert (found.severity, "newer than this release" in found.what) == (Severity.UNSAFE, True)
    session.engine_of(sessions).dispose()


def test_a_ledger_that_acknowledges_what_it_may_lose_is_unsafe(sessions: sessionmaker[Session]) -> None:
    [(severity, what)] = told(ledger.commits(sessions), "ledger commits")
    if session.engine_of(sessions).dialect.name == "sqlite":
        assert severity == "ok"
    else:  # which the tests' own server is, for speed
        assert severity == "unsafe"
        assert "fsync = off" in what


@pytest.mark.parametrize(("kind", "severity"), [("ext4", "ok"), ("nfs4", "unsafe")])
def test_a_sqlite_file_on_a_network_file_system_is_unsafe(tmp_path: Path, kind: str, severity: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"overlay / overlay rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\n")
    assert told(ledger.place(f"sqlite:///{tmp_path}/l.sqlite", mounts), "ledger place")[0][0] == severity
    assert [*ledger.place("postgresql+psycopg://u@h/d", mounts)] == []


@pytest.mark.parametrize(("ahead_s", "severity"), [(0.1, "ok"), (20, "warning"), (-20, "warning"), (900, "unsafe")])
def test_clocks_that_run_apart_are_noticed(ahead_s: float, severity: str) -> None:
    [(found, what)] = told(clocks.check({"Redis": lambda: time.time() + ahead_s}), "clocks")
    assert found == severity
    assert ("ahead of" in what) is (ahead_s > 2)


# ---------------------------------------------------------------- store, disks, versions


def test_a_store_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    assert storage.store(f"file://{tmp_path}/store").severity == Severity.OK
    assert [*(tmp_path / "store").iterdir()] == []


def test_a_store_that_cannot_be_written_is_unsafe(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    assert storage.store(f"file://{tmp_path}/store").severity == Severity.UNSAFE


@pytest.mark.parametrize(
    ("low", "full", "severity"), [(0, 0, "ok"), (1 << 60, 0, "warning"), (1 << 61, 1 << 60, "unsafe")]
)
def test_a_disk_that_is_nearly_full_is_named_once(tmp_path: Path, low: int, full: int, severity: str) -> None:
    found = storage.disks([tmp_path, tmp_path / "not" / "yet"], low_bytes=low, full_bytes=full)
    assert [one for one, _ in told(found, "disk")] == [severity]


@pytest.mark.parametrize("name", [checkpoints.WEIGHTS, checkpoints.PARITY, checkpoints.CARD])
def test_a_serving_version_with_a_flipped_byte_or_without_a_file_is_unsafe(machine: Machine, name: str) -> None:
    machine.import_model()
    with session.reading(machine.sessions) as reading:
        serving = registry.version(reading, "cats")
    assert storage.version(serving).severity == Severity.OK
    file = Path(serving.reference.removeprefix("file://")) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert storage.version(serving).severity == Severity.UNSAFE
    file.unlink()
    found = storage.version(serving)
    assert (found.severity, "cats:1 serves and is broken" in found.what) == (Severity.UNSAFE, True)
    assert found.mend.startswith("imagemill models rollback cats")
    assert "cats:1 has unfinished jobs and is broken" in storage.pinned(serving).what


# ---------------------------------------------------------------- what strangers could reach


@contextmanager
def a_page_that_answers(status: int) -> Iterator[int]:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "severity"), [(200, "unsafe"), (401, "ok"), (404, "ok")])
def test_a_flower_that_lets_anybody_in_is_unsafe(settings: Settings, status: int, severity: str) -> None:
    with a_page_that_answers(status) as port:
        found = exposure.flower(Settings(home=settings.home, flower_port=port), {})
        assert told(found, "flower port")[0][0] == severity


@pytest.mark.parametrize(("auth", "severity"), [("", "ok"), ("ada:1234", "warning"), ("ada:" + "x" * 12, "ok")])
def test_a_password_that_can_be_guessed_is_a_warning(settings: Settings, auth: str, severity: str) -> None:
    there = Settings(home=settings.home, flower_port=servers.free_port(), flower_basic_auth=auth)
    assert told(exposure.flower(there, {}), "flower password")[0][0] == severity
    assert told(exposure.flower(there, {exposure.OPENS_API: "true"}), "flower password")[1][0] == "warning"


def test_roots_that_are_missing_ours_to_change_or_hold_our_home_are_warnings(settings: Settings) -> None:
    home = settings.home
    roots = (f"{home}/gone", str(home), str(home.parent), "s3://photos")
    found = told(exposure.roots(Settings(home=home, allowed_roots=roots)), "allowed roots")
    assert [severity for severity, _ in found] == ["warning", "warning", "warning", "ok"]
    assert [word in what for word, (_, what) in zip(("no folder", "own home", "own home"), found, strict=False)]
    (home / "photos").mkdir()
    [(severity, what)] = told(exposure.roots(Settings(home=home, allowed_roots=(f"{home}/photos",))), "allowed roots")
    assert (severity, what) == ("warning", f"We may write to {home}/photos.")


@pytest.mark.parametrize(
    ("mode", "folder", "severity"),
    [(0o600, 0o755, "ok"), (0o644, 0o755, "warning"), (0o644, 0o700, "ok"), (0o666, 0o700, "unsafe")],
)
def test_a_secret_that_others_may_read_or_change_is_found(mode: int, folder: int, severity: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        file = Path(place) / "broker_url"
        file.write_text("redis://:pw@queue/0")
        file.chmod(mode)
        Path(place).chmod(folder)
        named = secret_files({"IMAGEMILL_BROKER_URL_FILE": str(file), "IMAGEMILL_MODELS": "cats"})
        assert told(exposure.secret_files(named), "secrets")[0][0] == severity


# ---------------------------------------------------------------- the command, and a worker's start


def test_no_worker_starts_on_a_redis_that_evicts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.redis_on_port("--maxmemory-policy", "allkeys-lru") as port:
        monkeypatch.setenv("IMAGEMILL_BROKER_URL", f"redis://127.0.0.1:{port}/0")
        said = sentence(machine.run("worker", "intake"), 2)
    assert said.startswith("Redis evicts keys when it is full (maxmemory-policy allkeys-lru): a queue is a key")
    assert said.endswith("(imagemill doctor).")


def test_a_worker_is_told_of_warnings_and_not_of_an_old_redis_on_a_port(settings: Settings) -> None:
    with servers.redis_on_port() as port:
        there = Settings(home=settings.home, broker_url=f"redis://127.0.0.1:{port}/0").resolved()
        found = examination.before_start(create_app(there), there, {})
    assert [one.subject for one in found if one.subject != "cuda"] == ["redis persistence"]


def test_a_worker_whose_queue_is_elsewhere_is_refused(redis_url: str, settings: Settings) -> None:
    there = Settings(home=settings.home, broker_url=redis_url).resolved()
    with pytest.raises(InstallationUnsafe, match="CELERY_BROKER_URL sends and takes messages elsewhere"):
        examination.before_start(create_app(there), there, {"CELERY_BROKER_URL": "redis://elsewhere"})


def test_a_part_that_is_away_is_named_and_the_others_are_looked_at(machine: Machine) -> None:
    machine.import_model()
    ran = machine.run("doctor", "--json")
    found = {one["subject"]: one["severity"] for one in ran.json["findings"]}
    assert (ran.code, ran.json["exit_code"]) == (1, 1)
    assert (found["redis"], found["schema"], found["model"]) == ("away", "ok", "ok")
    assert "hunter2" not in ran.out
    with sqlite3.connect(machine.ledger) as opened:
        opened.execute("UPDATE alembic_version SET version_num = 'from_tomorrow'")
    opened.close()
    assert machine.run("doctor").code == 2


def test_the_page_is_quiet_about_what_is_in_order_and_has_the_worst_first(machine: Machine) -> None:
    lines = machine.run("doctor").out.splitlines()
    assert lines[0].startswith("away     redis")
    assert not [line for line in lines if line.startswith("ok ")]
    assert lines[-1].endswith("ok; --all shows what is in order, too.")
    shown = machine.run("doctor", "--all").out
    assert "ok       timeouts" in shown
