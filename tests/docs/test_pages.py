"""Every page, and the README: what it tells a reader to type exists, and it leads nowhere outside for its own sake."""

import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from tests.docs import pages
from worker import settings
from worker.cli import parser

#: A command as it is written in a block: first in its line, behind a sign of the shell, or run by Compose.
OURS = r"(?:(?:^|[|(;&]|\buntil|\bthen)[ \t]*(?:\w+=\S+[ \t]+)*(?:\S*/)?imagemill|\bcompose run [^\n`]*?\bcli)[ \t]+"
IN_BLOCK = re.compile(OURS + r"([^\n|;&#)]+)", re.MULTILINE)
#: A command as it is named in a sentence.
IN_SENTENCE = re.compile(r"`(?:(?:\S*/)?imagemill|docker compose run [^`\n]*?\bcli) ([^`\n]+)`")
#: What the shell fills in.
FILLED_IN = re.compile(r"\$\([^)]*\)")
VARIABLE = re.compile(r"IMAGEMILL_[A-Z0-9_]+")


def _named(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    for block in pages.blocks(page):
        if block.kind in ("sh", ""):
            for command in IN_BLOCK.findall(block.text.replace("\\\n", " ")):
                yield command.strip()
    for command in IN_SENTENCE.findall(pages.BLOCK.sub("", text)):
        yield command.strip()


def _commands() -> list[tuple[str, str]]:
    return sorted(
        {
            (page.relative_to(pages.ROOT).as_posix(), command)
            for page in pages.PAGES
            for command in filter(None, _named(page))
        }
    )


def _parsed(words: list[str]) -> tuple[object, str]:
    """Give the parser's exit code, 0 if it is content, and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            parser.build().parse_args(words)
        except SystemExit as ended:
            return ended.code, said.getvalue()
    return 0, ""


def test_the_pages_name_many_commands() -> None:
    """The pattern still finds them."""
    assert len(_commands()) > 100


@pytest.mark.parametrize(("page", "command"), _commands())
def test_a_command_that_a_page_names_is_one_that_the_parser_knows(page: str, command: str) -> None:
    code, said = _parsed(shlex.split(FILLED_IN.sub("x", command)))
    # A sentence may name a command without its arguments; a name or an option must exist all the same.
    assert code == 0 or "required" in said, f"{page}: imagemill {command}\n{said}"


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.relative_to(pages.ROOT).as_posix())
def test_a_variable_that_a_page_names_is_a_setting(page: Path) -> None:
    known = {settings.PREFIX + item.name.upper() for item in fields(settings.Settings)}
    named = {name.removesuffix("_FILE") for name in VARIABLE.findall(page.read_text(encoding="utf-8"))}
    assert {name for name in named - known if not name.startswith("IMAGEMILL_TEST_")} == set()


def test_the_site_is_built_without_a_warning_and_asks_no_other_host_for_anything(tmp_path: Path) -> None:
    building = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(building, cwd=pages.ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert built.returncode == 0, built.stderr
    assert len(list(tmp_path.rglob("*.html"))) > 15
    asked = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
    for file in tmp_path.rglob("*.html"):
        assert asked.findall(file.read_text(encoding="utf-8")) == [], file.name
    for file in tmp_path.rglob("*.css"):
        assert not re.search(r"@import|url\((?:https?:)?//", file.read_text(encoding="utf-8")), file.name


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.relative_to(pages.ROOT).as_posix())
def test_what_a_page_imports_of_the_client_is_in_the_wheel(page: Path) -> None:
    for block in pages.blocks(page):
        for module, names in re.findall(r"^from imagemill\.(\w+) import ([\w, ]+)", block.text, re.MULTILINE):
            found = importlib.import_module(f"worker.{module}")
            assert [name for name in names.strip().split(", ") if not hasattr(found, name)] == []


def test_the_readme_leads_only_to_files_that_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)", (pages.ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (pages.ROOT / link).exists()] == []
