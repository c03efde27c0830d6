"""The stack on which the short trials run one after the other, and the two sizes."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import trials
from tests.chaos.trials import Trial
from tests.mills import Mill


@pytest.fixture(scope="session")
def is_full(request: pytest.FixtureRequest) -> bool:
    """Whether every row is run in its full size; `make chaos` asks for it."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def mill() -> Iterator[Mill]:
    """A stack on SQLite, shared by the trials that leave it as they found it."""
    folder = Path(tempfile.mkdtemp(prefix="im-chaos-"))
    try:
        with trials.opened(folder) as opened:
            yield opened
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def trial(mill: Mill) -> Iterator[Trial]:
    """A trial on the shared stack, all of whose parts run at its start and at its end."""
    with trials.trial(mill) as begun:
        yield begun
        begun.revive()
