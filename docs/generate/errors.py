"""Takes the trees of errors and the code that raises them. Gives the page of exit codes, refusals and failed items.

Knows nothing of when they are raised.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from db import errors as ledger_errors
from docs.generate import markdown, remarks
from pipeline import errors as pipeline_errors
from worker import client, intake, manifests, messages, quotas, settings
from worker import errors as worker_errors
from worker.cli import commands
from worker.doctor.findings import InstallationUnsafe
from worker.stack import StackError

ROOT = Path(__file__).parents[2]
#: class that is raised -> the stage it is of
ITEM_ERRORS = {
    "ItemUnfetchable": pipeline_errors.ItemUnfetchable.stage,
    "ImageUnreadable": pipeline_errors.ImageUnreadable.stage,
}
#: Where items fail.
SOURCES = ("pipeline/references.py", "pipeline/urls.py", "pipeline/stores.py", "pipeline/images.py")
#: Refusals that no class of the ledger's stands for.
FULL = (quotas.QueueFull, quotas.QuotaExceeded)
#: Errors that a process, and no one item, ends with.
ENDS = (
    settings.SettingsInvalid,
    manifests.ManifestInvalid,
    messages.MessageInvalid,
    client.BrokerUnreachable,
    client.NotAcknowledged,
    client.Unfinished,
    InstallationUnsafe,
    StackError,
    worker_errors.PlaybookInvalid,
    worker_errors.BackupDamaged,
    worker_errors.BackupRefused,
    worker_errors.NothingToStartFrom,
)

HEAD = """\
# Errors

An error is one sentence that says what happened and what to do. Programs match on its *kind*, which does not change.

## Exit codes

"""
CODES = (
    (commands.DONE, "done"),
    (commands.FAILED, "failed; of `submit --wait`: the job ended with a failed item, too"),
    (commands.WRONG, "wrong usage or configuration: the same command cannot work as it was given"),
    (commands.REFUSED, "refused by the plan or by the gate"),
    (130, "interrupted by Ctrl-C"),
)
REFUSED = """\
## Refusals

What intake answers instead of `ok`: `{"refused": {"kind", "message"}}`. The client raises `Refused` with the same
`kind`.

"""
ITEMS = """\
## Failed items

A bad image is an outcome with `error_stage`, `error_kind` and `error_message`, and costs its neighbours nothing. Retry
them with `imagemill jobs retry`. These are of reading an image. Beside them there is `killed_worker`, for an image that
killed whoever took it, and the stages `load` and `forward` are the version's, not the image's.

"""
RAISED = """\
## Errors of the command line and the client

With `--json` an error is `{"error": {"kind", "message"}}` on the standard error, and the kind is this name.

"""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Raised:
    """One way in which an item fails."""

    stage: str
    kind: str
    message: str


def page() -> str:
    """Give the page."""
    parts = [
        HEAD,
        markdown.table(("code", "means"), ((str(code), about) for code, about in CODES)),
        REFUSED,
        markdown.table(("kind", "means"), _refusals()),
        ITEMS,
        markdown.table(
            ("stage", "kind", "message"),
            ((one.stage, markdown.code(one.kind), one.message) for one in sorted(set(_raised()))),
        ),
        RAISED,
        markdown.table(("kind", "exit code", "means"), _ends()),
    ]
    return "".join(parts).rstrip() + "\n"


def _refusals() -> Iterator[tuple[str, str]]:
    yield markdown.code("invalid"), remarks.about(messages.MessageInvalid)
    for kind in (*_below(ledger_errors.LedgerError), *FULL):
        yield markdown.code(intake.refusal_of(_unmade(kind)).kind), remarks.about(kind)


def _ends() -> Iterator[tuple[str, str, str]]:
    kinds = {*ENDS, *_below(ledger_errors.LedgerError), *_below(pipeline_errors.PipelineError)}
    kinds -= {pipeline_errors.ItemError, *_below(pipeline_errors.ItemError)}
    for kind in sorted(kinds, key=lambda one: one.__name__):
        yield markdown.code(kind.__name__), str(commands._code(_unmade(kind))), remarks.about(kind)


def _unmade(kind: type[Exception]) -> Exception:
    """Give an error of that kind without what it would say: its kind and its exit code are of its class."""
    made: Exception = kind.__new__(kind)
    return made


def _below(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def _raised() -> Iterator[Raised]:
    """Give what each item can fail with: the errors that are made with a kind and a sentence, where images are read."""
    for source in SOURCES:
        for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ITEM_ERRORS:
                kind, message = (_text(argument) for argument in node.args)
                if kind:
                    yield Raised(stage=ITEM_ERRORS[node.func.id], kind=kind, message=message)


def _text(node: ast.expr) -> str:
    """Give a text as it stands in the code, `...` for what is filled in; nothing for what is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        shown = "".join(_text(part) if isinstance(part, ast.Constant) else "..." for part in node.values)
        return shown.replace("....", "...")
    return ""
