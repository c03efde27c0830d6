"""Takes a class. Gives what is written about it and each of its fields: its docstring, and the `#:` above each name.

Knows nothing of what kind of class it is.
"""

import inspect
import re

from docs.generate import markdown

#: A field as it opens a line of a class's body.
FIELD = re.compile(r"    (\w+) ?[:=]")
#: A comment that is about the name below it.
REMARK = "#:"
#: Where a number comes from is of no use to who sets it.
SOURCE = re.compile(r" \([^()]*(?:science|measured)[^()]*\)")


def about(kind: type) -> str:
    """Give the first paragraph of a class's docstring, on one line."""
    return _plain((inspect.getdoc(kind) or "").partition("\n\n")[0])


def fields(kind: type) -> dict[str, str]:
    """Give each field's remark by its name; fields without one are left out."""
    found: dict[str, str] = {}
    lines: list[str] = []
    for line in inspect.getsource(kind).splitlines():
        if line.strip().startswith(REMARK):
            lines.append(line.strip().removeprefix(REMARK))
            continue
        if lines and (named := FIELD.match(line)):
            found[named[1]] = _plain(" ".join(lines))
        lines = []
    return found


def _plain(text: str) -> str:
    return SOURCE.sub("", markdown.sentence(text))
