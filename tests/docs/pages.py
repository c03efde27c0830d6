"""The pages' text: the blocks of commands with what they print, and all that is written as code.

Takes a page. Gives its blocks and words. Knows nothing of what they mean.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Every page a reader may copy a command from.
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]*)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block."""

    kind: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Give a page's blocks, in order."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(kind=kind, title=title, text=text) for kind, title, text in found]
