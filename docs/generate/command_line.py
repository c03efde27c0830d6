"""Takes the command line's parser. Gives the page that names every command with its arguments and options.

Knows nothing of what commands do.
"""

import argparse
from collections.abc import Iterator

from docs.generate import markdown
from worker.cli import parser

HEAD = """\
# Command line

Every command takes `--help`, and `--json`: what it says is then JSON for programs, and an error is
`{"error": {"kind", "message"}}` on the standard error. The exit codes are in [Errors](errors.md#exit-codes).
`python -m worker` is the same program.

"""


def page() -> str:
    """Give the page."""
    commands = list(_leaves(parser.build()))
    index = markdown.table(
        ("command", "about"),
        ((f"[`{name}`](#{markdown.anchor(name)})", about) for name, about, _ in commands),
    )
    return (HEAD + index + "".join(_command(*one) for one in commands)).rstrip() + "\n"


def _leaves(root: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Give each command that does something: its full name, what it is about, and its parser."""
    for action in root._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _leaves(child)
            return
    yield root.prog, root.description or "", root


def _command(name: str, about: str, command: argparse.ArgumentParser) -> str:
    shown = [action for action in command._actions if action.dest not in ("help", "json")]
    usage = " ".join([name, *(_usage(action) for action in shown if not action.option_strings)])
    usage += " [OPTION ...]" if any(action.option_strings for action in shown) else ""
    text = f"## {name}\n\n{about[:1].upper()}{about[1:]}.\n\n{markdown.fenced(usage, 'text')}"
    if not shown:
        return text
    return text + markdown.table(("argument", "default", "meaning"), map(_row, shown))


def _usage(action: argparse.Action) -> str:
    name = _value(action)
    return {"*": f"[{name} ...]", "+": f"{name} ...", "?": f"[{name}]"}.get(str(action.nargs), name)


def _row(action: argparse.Action) -> tuple[str, str, str]:
    value = "" if action.nargs == 0 else f" {_value(action)}"
    name = action.option_strings[-1] + value if action.option_strings else _usage(action)
    return markdown.code(name), _default(action), _meaning(action)


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    given = action.metavar or action.dest.upper()
    return given if isinstance(given, str) else " ".join(given)


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.nargs == 0 or action.default in (None, "", []):
        return ""
    return markdown.code(str(action.default))


def _meaning(action: argparse.Action) -> str:
    said = (action.help or "") % vars(action)
    return said.replace(f" (default: {action.default})", "").replace(f"(default: {action.default})", "")
