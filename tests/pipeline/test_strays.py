"""A file goes unless somebody held it, at whatever moment, and one that is put aside is found again."""

import os
import time
from pathlib import Path

import pytest

from pipeline import strays

OLD_S = 1_000_000_000.0


@pytest.fixture
def old(tmp_path: Path) -> Path:
    file = tmp_path / "inline" / "ab" / ("a" * 64)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"image")
    os.utime(file, (OLD_S, OLD_S))
    return file


def test_files_are_listed_with_their_sizes_and_ages(old: Path, tmp_path: Path) -> None:
    (found,) = strays.files(f"file://{tmp_path}/inline")
    assert (found.address, found.num_bytes, found.at_s, found.name) == (f"file://{old}", 5, OLD_S, old.name)
    assert list(strays.files(f"file://{tmp_path}/none")) == []


def test_an_old_file_goes_once_and_a_held_one_stays(old: Path) -> None:
    assert strays.hold(f"file://{old}", 5)
    assert not strays.remove(f"file://{old}", before_s=OLD_S + 1)
    assert old.read_bytes() == b"image"
    os.utime(old, (OLD_S, OLD_S))
    assert strays.remove(f"file://{old}", before_s=OLD_S + 1)
    assert list(old.parent.iterdir()) == []
    assert not strays.remove(f"file://{old}", before_s=OLD_S + 1)
    assert not strays.hold(f"file://{old}")


def test_a_file_of_another_size_is_to_be_written_again(old: Path) -> None:
    assert not strays.hold(f"file://{old}", 6)


def test_a_file_that_is_held_between_the_look_and_the_removal_stays(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def held_just_before(self: Path, target: Path) -> Path:
        os.utime(self)
        return rename(self, target)

    # The one moment that a test cannot reach from outside.
    monkeypatch.setattr(Path, "rename", held_just_before)
    assert not strays.remove(f"file://{old}", before_s=time.time() - 60)
    assert [file.name for file in old.parent.iterdir()] == [old.name]


def test_what_a_killed_remover_had_put_aside_is_put_back(old: Path, tmp_path: Path) -> None:
    old.rename(old.with_name(f".{old.name}.aside-{'0' * 16}"))
    assert list(strays.files(f"file://{tmp_path}/inline")) == []
    assert [found.name for found in strays.files(f"file://{tmp_path}/inline")] == [old.name]


def test_what_a_writer_is_not_done_with_is_left_to_it(old: Path, tmp_path: Path) -> None:
    # As `stores.written` calls it, beside which a prune may run.
    half = old.rename(old.with_name(f".{old.name}.{'0' * 16}"))
    for _ in range(2):
        assert list(strays.files(f"file://{tmp_path}/inline")) == []
    assert half.exists()
