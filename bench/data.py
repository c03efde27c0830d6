"""Takes the environment. Gives the folder of photos and weights that benchmarks read; it is not part of the project.

Knows nothing of what lies in it.
"""

import os
from pathlib import Path


def folder() -> Path:
    """Give `IMAGEMILL_TEST_DATA`, or `../shared/data` beside the project."""
    return Path(os.environ.get("IMAGEMILL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
