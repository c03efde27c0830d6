"""A folder is there as a whole, and what a killed writer left does not stay."""

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline import stores

CONTENTS = {"weights": b"w" * 100, "card": b"c"}


def kill_while_writing(folder: Path, place: str) -> None:
    """Have a process write the folder and die at a named place."""
    armed = folder.parent.with_name("armed")
    armed.mkdir(exist_ok=True)
    (armed / f"{place}.{folder.parent.name}").write_text("kill")
    code = f"from pipeline import stores; stores.write_folder({str(folder)!r}, {CONTENTS!r})"
    environ = {**os.environ, "IMAGEMILL_TEST_FAILPOINTS": str(armed)}
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == -9


def test_a_writer_that_is_killed_leaves_no_folder_and_what_it_left_is_removed_in_time(tmp_path: Path) -> None:
    folder = tmp_path / "kept" / "a"
    kill_while_writing(folder, "mid_write")
    [left] = folder.parent.iterdir()
    assert left.name.startswith(".a.")
    stores.write_folder(str(folder), CONTENTS)
    assert left.exists(), "its writer may be alive"
    os.utime(left, times=(0.0, time.time() - stores.ABANDONED_S - 1))
    stores.write_folder(str(folder.with_name("b")), CONTENTS)
    assert sorted(found.name for found in folder.parent.iterdir()) == ["a", "b"]


def test_a_writer_that_is_killed_after_the_rename_has_written_it(tmp_path: Path) -> None:
    folder = tmp_path / "kept" / "a"
    kill_while_writing(folder, "after_rename")
    assert {name: stores.read_file(str(folder), name) for name in CONTENTS} == CONTENTS


def test_what_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    mine = tmp_path / ".a.notes"
    mine.mkdir()
    os.utime(mine, times=(0.0, 0.0))
    stores.write_folder(str(tmp_path / "b"), CONTENTS)
    assert mine.exists()
