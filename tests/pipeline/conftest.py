"""Fixtures of the pure ring."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real photos and weights, which are not part of the project."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("IMAGEMILL_TEST_DATA", beside))
    if not (folder / "weights").is_dir():
        pytest.skip(f"real photos and weights are not at {folder}; set IMAGEMILL_TEST_DATA to check against them")
    return folder
