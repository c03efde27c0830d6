"""Takes the settings. Gives what is wrong with this installation: on a terminal a page, for programs JSON.

Exits with 2 if something is unsafe, with 1 if a part did not answer and nothing else is unsafe, and with 0 otherwise.
Knows nothing of how it is found out.
"""

import os
from argparse import Namespace
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from worker.cli import output
from worker.doctor import examination, findings
from worker.doctor.findings import Finding, Severity
from worker.settings import Settings, secret_files

#: how each severity looks
STYLES = {
    Severity.UNSAFE: "bold red", Severity.AWAY: "bold magenta", Severity.WARNING: "yellow", Severity.UNKNOWN: "cyan",
    Severity.OK: "green",
}  # fmt: skip
#: columns of the severity and of the subject
WIDTHS = (8, 17)


def doctor(asked: Namespace, settings: Settings) -> int:
    """Look at everything and tell the worst first."""
    found = findings.worst_first(examination.everything(settings, os.environ, secret_files(os.environ)))
    code = _code(found)
    if asked.json:
        told = [
            {"subject": one.subject, "severity": str(one.severity), "what": one.what, "why": one.why, "mend": one.mend}
            for one in found
        ]
        output.as_json({"exit_code": code, "findings": told})
        return code
    console = output.console()
    for one in found:
        if asked.all or one.severity > Severity.OK:
            console.print(_drawn(one))
    console.print(_sum(found, shows_all=asked.all))
    return code


def _code(found: Sequence[Finding]) -> int:
    if findings.count(found, Severity.UNSAFE):
        return 2
    return 1 if findings.count(found, Severity.AWAY) else 0


def _drawn(one: Finding) -> Table:
    """Draw a finding: what was found, and below it why it matters and how to mend it."""
    drawn = Table.grid(padding=(0, 1))
    for width in WIDTHS:
        drawn.add_column(width=width, no_wrap=True)
    drawn.add_column(overflow="fold")
    drawn.add_row(Text(str(one.severity), STYLES[one.severity]), Text(one.subject, "bold"), Text(one.what))
    below = Table.grid(padding=(0, 1))
    for name, said in (("why", one.why), ("mend", one.mend)):
        if said:
            below.add_row(Text(name, "dim"), Text(said))
    if below.row_count:
        drawn.add_row("", "", below)
    return drawn


def _sum(found: Sequence[Finding], *, shows_all: bool) -> Text:
    """Draw the last line: how many of each, and what that means."""
    parts = [
        (f"{num} {severity!s}{'s' if severity == Severity.WARNING and num > 1 else ''}", STYLES[severity])
        for severity in sorted(Severity, reverse=True)
        if (num := findings.count(found, severity))
    ]
    line = Text("\n")
    for position, part in enumerate(parts):
        line.append(", " if position else "")
        line.append(*part)
    line.append("." if shows_all else "; --all shows what is in order, too.")
    return line
