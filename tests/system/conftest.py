"""The whole stack as real processes, once on SQLite and once on PostgreSQL, shared by the tests of this ring."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.mills import Mill, open_mill


@pytest.fixture(scope="session", params=("sqlite", "postgresql"))
def mill(request: pytest.FixtureRequest) -> Iterator[Mill]:
    """A running stack that serves the models `tiny` and `swap`; jobs of other tests may be in its ledger."""
    home = Path(tempfile.mkdtemp(prefix="im-mill-"))
    database_url = ""
    if request.param == "postgresql":
        server: servers.Postgres = request.getfixturevalue("postgres")
        server.execute("CREATE DATABASE mill")
        database_url = server.url("mill")
    try:
        with open_mill(home, database_url=database_url) as opened:
            yield opened
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def imagemill() -> list[str]:
    """The command line, as a process of its own."""
    return [sys.executable, "-m", "worker"]


@pytest.fixture(autouse=True)
def _outputs_on_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """Show the end of each part's log when a test of the shared stack fails."""
    yield
    report = getattr(request.node, "failed_call", False)
    if report and "mill" in request.fixturenames:
        logs = request.getfixturevalue("mill").stack.logs
        for log in sorted(logs.glob("*.log")):
            print(log.name, *log.read_text(errors="replace").splitlines()[-15:], sep="\n  ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember whether the test itself failed, for the fixture above."""
    report = yield
    if report.when == "call":
        item.failed_call = report.failed
    return report
