"""Fixtures of the pure ring."""

from pathlib import Path

import pytest

from tests import data


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real photos and weights, which are not part of the project."""
    return data.folder()
