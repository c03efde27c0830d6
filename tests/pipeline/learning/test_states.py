"""What is written is there whole, or what was there before is."""

from __future__ import annotations

import errno
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.learning import states

#: bytes that a file may have at most, in a test of a full disk
ROOM = 300_000


@pytest.fixture
def little_room() -> Iterator[None]:
    """A real limit of the system's on the size of files."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_what_was_saved_is_loaded_to_the_bit(tmp_path: Path) -> None:
    tensor = torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last)
    states.save(tmp_path / "new" / "x.pt", {"tensor": tensor, "rows": [{"a": 1.5, "b": None}], "half": tensor.half()})
    found = states.load(tmp_path / "new" / "x.pt")
    assert found is not None
    assert torch.equal(found["tensor"], tensor)
    assert found["tensor"].stride() == tensor.stride()
    assert found["rows"] == [{"a": 1.5, "b": None}]


@pytest.mark.parametrize("num_bytes", [ROOM // 4, ROOM])
def test_where_there_is_no_room_the_reason_is_said_and_the_last_state_stays(
    tmp_path: Path, little_room: None, num_bytes: int
) -> None:
    file = tmp_path / "x.pt"
    states.save(file, {"number": torch.tensor(1)})
    with pytest.raises(OSError) as refused:  # noqa: PT011 - its number says which
        states.save(file, {"large": torch.zeros(ROOM + num_bytes, dtype=torch.uint8)})
    assert refused.value.errno == errno.EFBIG
    assert states.load(file) == {"number": torch.tensor(1)}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nonsense" * 99])
def test_what_is_damaged_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    assert states.load(tmp_path / "x.pt") is None
    assert states.load(tmp_path / "y.pt") is None


def test_code_in_a_state_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    torch.save({"trap": Trap()}, tmp_path / "x.pt")
    assert states.load(tmp_path / "x.pt") is None
    assert not (tmp_path / "sprung").exists()


def test_only_the_best_that_the_state_names_is_kept(tmp_path: Path) -> None:
    for number in (1, 3, 12):
        states.save(states.best_file(tmp_path, number), {})
    states.save(states.state_file(tmp_path), {})
    states.keep_best(tmp_path, 3)
    assert {entry.name for entry in tmp_path.iterdir()} == {"best-00003.pt", "state.pt"}
