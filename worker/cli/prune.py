"""Takes an age in days. Gives a ledger and a store without what is older, and tells what went.

Knows nothing of what is kept, or why.
"""

from argparse import Namespace

from worker import messages, pruning, runtime
from worker.cli import output
from worker.pruning import Pruned, Removable
from worker.settings import Settings


def prune(asked: Namespace, settings: Settings) -> int:
    """Delete what is old and that nothing needs. Raises `MessageInvalid` where no age is known."""
    days = asked.older_than or settings.keep_days
    if not days:
        raise messages.MessageInvalid("Say how old: --older-than DAYS, or set IMAGEMILL_KEEP_DAYS.")
    older_than_s = days * pruning.DAY_S
    with runtime.ledger(settings) as sessions:
        pruned = pruning.prune(sessions, settings, older_than_s=older_than_s, is_dry_run=asked.dry_run)
        removable = pruning.removable_versions(sessions, older_than_s=older_than_s)
    if asked.json:
        output.as_json({"pruned": pruned, "removable_versions": removable})
    else:
        _print(pruned, removable, days)
    return 0


def _print(pruned: Pruned, removable: list[Removable], days: int) -> None:
    print(f"{'Would go' if pruned.is_dry_run else 'Gone'}, older than {days} days: {pruned}.")
    if pruned.num_jobs:
        print("Their idempotency keys are free: the same key would be a new job.")
    if removable:
        output.table(
            "\nNever promoted, and nothing rests on them; their checkpoints are left to you",
            ("version", "bytes", "checkpoint"),
            [(one.version, one.num_bytes, one.reference) for one in removable],
        )
