"""Takes the parser's commands. Gives it those an operator runs through the day: pause, drain, scale, prune.

Knows nothing of what commands do.
"""

import argparse

from worker import messages
from worker.cli.parsing import Commands, command, count

ROLES = ("intake", "classify", "learn", "upkeep")


def add(commands: Commands) -> None:
    """Add all of them."""
    _add_pause(commands)
    _add_drain(commands)
    _add_scale(commands)
    _add_prune(commands)


def _add_pause(commands: Commands) -> None:
    pause = command(commands, "pause", "pause:pause", "let a model's work wait: jobs are accepted, workers claim none")
    pause.add_argument("--reason", required=True, help="shown to whoever waits")
    resume = command(commands, "resume", "pause:resume", "let a model's work go on")
    for parser in (pause, resume):
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("model", nargs="?", metavar="MODEL")
        which.add_argument("--all", action="store_true", help="every model, those to come as well")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--priority", choices=messages.PRIORITIES, help="only this (default: all, and learning)")
        what.add_argument("--learning", action="store_true", help="only learning: no run begins, no trigger fires")


def _add_drain(commands: Commands) -> None:
    drain = command(commands, "drain", "drain:drain", "let workers finish what they hold and take no more")
    drain.add_argument("--reason", default="", help="shown in status")
    drain.add_argument("--wait", action="store_true", help="until all are drained; exit 1 if that takes too long")
    drain.add_argument("--timeout", type=float, default=300.0, metavar="S", help="(default: %(default).0f)")
    undrain = command(commands, "undrain", "drain:undrain", "let drained workers take work again")
    for parser in (drain, undrain):
        parser.add_argument("worker", nargs="?", metavar="WORKER", help="its name, as in `imagemill status`")
        parser.add_argument("--host", help="every worker on this host")
        parser.add_argument("--all", action="store_true", help="every worker there is now")
        parser.add_argument("--role", choices=ROLES, help="of these only the workers of this role")


def _add_scale(commands: Commands) -> None:
    about = "how many classify workers the backlog asks for; exit 1 if there are fewer"
    scale = command(commands, "scale", "scale:scale", about)
    scale.add_argument("--target-s", type=float, default=300.0, metavar="S", help="(default: %(default).0f)")
    scale.add_argument("--min", type=_natural, default=1, metavar="N", help="workers at least (default: %(default)s)")
    scale.add_argument("--max", type=count, default=16, metavar="N", help="workers at most (default: %(default)s)")
    scale.add_argument(
        "--pace", type=float, metavar="R", help="images/s of one worker, where none has told its own yet"
    )


def _add_prune(commands: Commands) -> None:
    about = "delete what is old and that nothing needs: finished jobs, their outcomes and inline images"
    prune = command(commands, "prune", "prune:prune", about)
    prune.add_argument("--older-than", type=count, metavar="DAYS", help="(default: IMAGEMILL_KEEP_DAYS)")
    prune.add_argument("--dry-run", action="store_true", help="only tell what would go")


def _natural(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"give a whole number of at least 0, not {text!r}")
    return int(text)
