"""Takes the parser's commands. Gives them those that are about HTTP: the server, and the keys its callers show.

Knows nothing of what commands do.
"""

from worker.cli import parser_learning
from worker.cli.parsing import Commands, command, count, group

#: As `db.keys.SCOPES` has them, which the parser does not import: `--help` is quick.
SCOPES = ("submit", "label", "operate")


def add_serve(commands: Commands) -> None:
    """Add `serve`: HTTP in the foreground."""
    serve = command(commands, "serve", "serve:serve", "serve HTTP in the foreground: jobs, labels, runs, models; /docs")
    serve.add_argument("--address", default="127.0.0.1", help="(default: %(default)s)")
    serve.add_argument("--port", type=count, help="(default: IMAGEMILL_HTTP_PORT)")
    parser_learning.add_project(serve)


def add_keys(commands: Commands) -> None:
    """Add `keys`: who may call over HTTP."""
    keys = group(commands, "keys", "make, list and revoke the keys that callers of HTTP show")
    add = command(keys, "add", "keys:add", "make a key, and show it once")
    add.add_argument("name", metavar="NAME", help="who calls with it; jobs and quotas go by this name")
    add.add_argument(
        "--scope", action="append", choices=SCOPES, required=True, help="what for, reading included; may be repeated"
    )
    add.add_argument("--expires-days", type=count, metavar="N", help="(default: never)")
    command(keys, "list", "keys:listed", "every key, what it is for, and when it was last shown")
    revoke = command(keys, "revoke", "keys:revoke", "shut a key out, at once and for good")
    revoke.add_argument("key", type=count, metavar="KEY", help="its number, as `keys list` has it")
