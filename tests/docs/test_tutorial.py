"""docs/tutorial.md, as a reader follows it: every command is run, and prints what the page says."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import pages, prints, terminals

PAGE = pages.ROOT / "docs/tutorial.md"
#: The title of a block that stays in the foreground, in a terminal of its own.
SECOND = "In a second terminal"
IS_UP = "imagemill is up; Ctrl-C stops it.\n"


@pytest.fixture
def environ(home: Path) -> dict[str, str]:
    """A reader's environment: a home of their own, nothing set, and the checkout's code."""
    commands = home / "bin"
    commands.mkdir()
    # Where the checkout has no .venv, the page's PATH leads here.
    for name, line in (("imagemill", "-m worker "), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {line}"$@"\n')
        (commands / name).chmod(0o755)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEMILL_")}
    path = f"{commands}:{os.environ['PATH']}"
    return {**ours, "HOME": str(home), "PATH": path, "PYTHONPATH": str(pages.ROOT), "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture
def first(environ: dict[str, str]) -> Iterator[terminals.Terminal]:
    with terminals.opened(pages.ROOT, environ) as terminal:
        yield terminal


@pytest.fixture
def second(environ: dict[str, str]) -> Iterator[terminals.Terminal]:
    with terminals.opened(pages.ROOT, environ) as terminal:
        yield terminal


@pytest.mark.timeout(600)  # each block has a limit of its own
def test_the_tutorial_does_what_it_says_from_nothing_to_a_model_that_learned_new_classes(
    home: Path, first: terminals.Terminal, second: terminals.Terminal
) -> None:
    printed = ""
    try:
        for block in pages.blocks(PAGE):
            if block.kind == "text":
                line = prints.missing(block.text.replace("/home/you", str(home)), printed)
                assert line is None, f"the page says {line!r}, and this was printed:\n{printed}"
            elif block.title == SECOND:
                second.begin(block.text)
                printed = second.read_until(IS_UP)
            else:
                printed = first.run(block.text)
            _check_shares(printed)
    finally:
        second.press_ctrl_c()
    assert "Traceback" not in second.read_until("Stopped.\n")


def _check_shares(printed: str) -> None:
    """The page's own question, how many digits are recognised, has an answer worth the page."""
    for share in re.findall(r"01234: (\S+) of 100 right", printed):
        assert float(share) > 0.85, printed
    for share in re.findall(r"56789: (\S+) of 100 right, by digits:2", printed):
        assert float(share) > 0.8, printed


@pytest.mark.parametrize(
    ("shown", "is_printed"),
    [
        ("b 1.5 s", True),
        ("a\n...\nc", True),
        ("... 2 s", True),
        ("a\nb ...", True),
        ("c\na", False),
        ("b 2", False),
        ("d 3", False),
    ],
)
def test_a_page_is_compared_with_what_was_printed_line_by_line(shown: str, is_printed: bool) -> None:
    assert (prints.missing(shown, "a\n\nb   2.25 s\nc\nd 2 s\n") is None) is is_printed
