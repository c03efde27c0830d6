"""Databases for the tests: each test gets its own, migrated, once on SQLite and once on PostgreSQL."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from db import migrate
from db import session as database
from tests import servers

_NUMBERS = count(1)
DIALECTS = ("sqlite", "postgresql")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make chaos` ask for every fault in its full size."""
    parser.addoption("--full", action="store_true", help="every row of the fault table, in full: about half an hour")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: takes long, so that only `make chaos` runs it")
    if config.getoption("--full"):
        os.environ["IMAGEMILL_TEST_CHAOS_FULL"] = "1"  # read where tests are parametrized


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what takes long to `make chaos`."""
    if not config.getoption("--full"):
        left = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


@pytest.fixture
def home() -> Iterator[Path]:
    """A short folder of this test's own: a socket's name must fit in 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="im-home-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """A private PostgreSQL server; IMAGEMILL_TEST_POSTGRES=wheel takes the wheel's binaries."""
    with servers.postgres(os.environ.get("IMAGEMILL_TEST_POSTGRES", "")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: servers.Postgres) -> str:
    """The name of a migrated database, to be copied."""
    postgres.execute("CREATE DATABASE migrated")
    migrate.upgrade(postgres.url("migrated"))
    return "migrated"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file, to be copied."""
    file = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    migrate.upgrade(f"sqlite:///{file}")
    return file


@pytest.fixture(params=DIALECTS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of this test's own, migrated."""
    if request.param == "sqlite":
        file = tmp_path / "ledger.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), file)
        yield f"sqlite:///{file}"
    else:
        template = request.getfixturevalue("postgres_template")
        yield from _postgres_database(request.getfixturevalue("postgres"), template)


@pytest.fixture(params=DIALECTS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of this test's own, without a table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        yield from _postgres_database(request.getfixturevalue("postgres"), "template1")


@pytest.fixture
def sessions(database_url: str) -> Iterator[sessionmaker[Session]]:
    """Sessions on a database of this test's own."""
    factory = database.connect(database_url)
    yield factory
    database.engine_of(factory).dispose()


@pytest.fixture
def redis_url() -> Iterator[str]:
    """The broker URL of a Redis of this test's own."""
    with servers.redis() as url:
        yield url


def _postgres_database(server: servers.Postgres, template: str) -> Iterator[str]:
    name = f"test_{next(_NUMBERS)}"
    server.copy(template, name)
    yield server.url(name)
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")
