"""Takes the name of a file. Gives a backup of ledger and checkpoints in it, or what was backed up, restored.

Knows nothing of how they are written.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from worker import backups, runtime
from worker.cli import output
from worker.settings import Settings

#: names shown of what is missing or broken
MAX_NAMED = 10


def backup(asked: Namespace, settings: Settings) -> int:
    """Back up while the system runs; gives 1 if something that the ledger names is missing from the store."""
    file = Path(asked.file)
    with runtime.ledger(settings) as sessions, _bars() as show:
        manifest = backups.back_up(
            sessions, settings.store, file, show=show, now_s=time.time(), takes_all_images=asked.all_images
        )
    size = file.stat().st_size
    if asked.json:
        told = {"file": str(file), "bytes": size, "rows": manifest.num_rows, "members": len(manifest.members)}
        output.as_json({**told, "revision": manifest.revision, "missing": manifest.missing})
    else:
        console = output.console()
        files = sum(name.startswith("store/") for name in manifest.members)
        console.print(f"[bold green]Backed up[/bold green] {manifest.num_rows:,} rows and {files:,} files", end=" ")
        console.print(f"to {output.plain(file)} ({size / 1e6:,.1f} MB).", soft_wrap=True)
        _say("missing from the store, or broken there, and not in the backup", manifest.missing)
    return 1 if manifest.missing else 0


def restore(asked: Namespace, settings: Settings) -> int:
    """Restore, and prove what was restored; gives 1 if a version's checkpoint does not prove whole."""
    with _bars() as show:
        restored = backups.restore(settings, Path(asked.file), replaces=asked.replace, show=show)
    manifest = restored.manifest
    if asked.json:
        told = {"rows": manifest.num_rows, "members": len(manifest.members), "versions": restored.versions}
        output.as_json({**told, "broken": restored.broken, "missing": manifest.missing})
    else:
        console = output.console()
        console.print(
            f"[bold green]Restored[/bold green] {manifest.num_rows:,} rows, as they were at "
            f"{output.when(manifest.created_at_s)}; versions that proved whole: {len(restored.versions)}."
        )
        _say("missing when it was backed up", manifest.missing)
        _say("not whole", list(restored.broken))
    return 1 if restored.broken else 0


def _say(what: str, names: list[str]) -> None:
    if not names:
        return
    console = output.console()
    console.print(f"[yellow]{len(names)} {what}:[/yellow]")
    for name in names[:MAX_NAMED]:
        console.print(f"  {output.plain(name)}", soft_wrap=True)
    if len(names) > MAX_NAMED:
        console.print(f"  and {len(names) - MAX_NAMED} more")


@contextmanager
def _bars() -> Iterator[backups.Show]:
    """Show a bar for each kind of work, one after the other."""
    with ExitStack() as open_bar:
        bars: dict[str, Callable[[int], None]] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                open_bar.close()
                bars[what] = open_bar.enter_context(output.progress(what, total))
            bars[what](done)

        yield show
