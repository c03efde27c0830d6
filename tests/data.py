"""Real images and weights that are not ours to publish.

Takes nothing. Gives their folder, or a skip that says aloud what is missing. Knows nothing of what is in it.
Benchmarks find it here too.
"""

import os
from pathlib import Path

import pytest


def place() -> Path:
    """Say where the data would be: `IMAGEMILL_TEST_DATA`, else `../shared/data` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    return Path(os.environ.get("IMAGEMILL_TEST_DATA", beside))


def folder() -> Path:
    """Find the data, or skip."""
    found = place()
    if not found.is_dir():
        pytest.skip(f"SKIPPED FOR WANT OF DATA: there are no photos and weights at {found}; set IMAGEMILL_TEST_DATA")
    return found
