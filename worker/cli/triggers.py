"""Takes nothing, or a model. Gives what each tick of the scheduler decided and why. Knows nothing of the scheduler."""

from argparse import Namespace

from db import session, triggers
from worker import playbook, runtime
from worker.cli import output
from worker.settings import Settings


def listed(asked: Namespace, settings: Settings) -> int:
    """Print the newest ticks; refusals for the same reason in a row are one line."""
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        ticks = triggers.ticks(reading, asked.model, limit=asked.limit)
    if asked.json:
        output.as_json(ticks)
        return 0
    output.table(
        "Ticks",
        ("model", "decision", "run", "why", "first", "last", "ticks"),
        (
            (
                tick.model, output.Markup("[green]fired[/green]") if tick.is_fired else "skipped", tick.run_id,
                tick.reason, output.when(tick.first_at_s), output.when(tick.last_at_s), tick.num_ticks,
            )
            for tick in ticks
        ),
    )  # fmt: skip
    return 0


def shown(asked: Namespace, settings: Settings) -> int:
    """Print a model's playbook: everything that decides how it learns."""
    known = playbook.read(settings.playbook, asked.model)
    if asked.json:
        output.as_json(known.as_dict())
        return 0
    console = output.console()
    console.print(f"[bold]Playbook of {asked.model}[/bold] ({settings.playbook or 'defaults; IMAGEMILL_PLAYBOOK'})")
    for name, value in known.as_dict().items():
        if isinstance(value, dict):
            console.print(f"\n\\[{name}]")
            for field, setting in value.items():
                console.print(f"  {field} = {output.plain(setting)}", soft_wrap=True)
        elif name != "model":
            console.print(f"{name} = {output.plain(value)}", soft_wrap=True)
    return 0
