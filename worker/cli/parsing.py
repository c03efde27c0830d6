"""Takes a command's name and what it is about. Gives its parser, as every command's is made.

Knows nothing of any one command.
"""

import argparse
import datetime
from typing import TypeAlias

from worker import messages

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # argparse offers no public name

JSON = argparse.ArgumentParser(add_help=False)
JSON.add_argument("--json", action="store_true", help="print JSON for programs")


def command(commands: Commands, name: str, handler: str, about: str) -> argparse.ArgumentParser:
    """Add a command that runs `handler`, a `module:function` of `worker.cli`."""
    added: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about, parents=[JSON])
    added.set_defaults(handler=handler)
    return added


def group(commands: Commands, name: str, about: str) -> Commands:
    """Add a command that is a group of others."""
    added = commands.add_parser(name, help=about, description=about)
    return added.add_subparsers(dest="verb", required=True, metavar="VERB")


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"give a whole number of at least 1, not {text!r}")
    return int(text)


def model_name(text: str) -> str:
    """Give the name of a model. Raises `MessageInvalid` for what can be none."""
    if not messages.MODEL_NAME.fullmatch(text):
        raise messages.MessageInvalid(f"{text[:80]!r} cannot name a model: use lower-case letters, digits and _ . -")
    return text


def moment(text: str) -> float:
    """Read an ISO 8601 time, local where it names no zone, as epoch seconds."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(f"give a time such as 2026-11-23T10:00, not {text!r}") from None
