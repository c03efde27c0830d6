"""Takes a model. Gives labels that the other labels speak against, and pictures that are in two splits.

Knows nothing of how a label is corrected, beyond the command that does it.
"""

from argparse import Namespace
from collections import Counter
from typing import TYPE_CHECKING

from db import proposals, session
from worker import playbook, retraining, runtime
from worker.cli import output
from worker.cli.parsing import model_name
from worker.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from worker.learning.auditing import Audit


def audit(asked: Namespace, settings: Settings) -> int:
    """Print suspects, those of the test split first, and leaks; finding some is no failure."""
    from worker.learning import auditing, workshop

    known = playbook.read(settings.playbook, model_name(asked.model))
    with runtime.ledger(settings) as sessions:
        with session.reading(sessions) as reading:
            base = retraining.base_of(reading, asked.model, asked.base or known.base)
        with (
            workshop.opened(settings.or_here(), sessions) as opened,
            output.errors().status("Auditing the labels ..."),
        ):
            found = auditing.audit_labels(opened, asked.model, base, seed=asked.seed)
        _propose(sessions, found)
    if asked.json:
        output.as_json(found)
    else:
        _print_suspects(found, asked.num)
        _print_leaks(found, asked.num)
        _print_sum(found, asked.num)
    return 0


def _propose(sessions: "sessionmaker[Session]", found: "Audit") -> None:
    """Let the suspects wait on the console's review page."""
    new = [
        proposals.NewProposal(
            reference=one.reference,
            sha256=one.sha256,
            why="suspect",
            score=one.p_label,
            label=one.label,
            suggested=one.suggested,
            probability=one.p_suggested,
            split=one.split,
        )
        for one in found.suspects
    ]
    with session.transaction(sessions) as transaction:
        proposals.replace(transaction, found.model, "audit", found.base, new)


def _print_suspects(found: "Audit", num: int) -> None:
    shown = found.suspects[:num]
    folder, names = output.apart([one.reference for one in shown])
    output.table(
        f"Labels of {found.model} to look at again",
        ("image", "split", "label", "suggested", "p(label)", "p(suggested)"),
        [
            (name, one.split, one.label, one.suggested, f"{one.p_label:.2f}", f"{one.p_suggested:.2f}")
            for name, one in zip(names, shown, strict=True)
        ],
    )
    if folder and names:
        output.console().print(f"[dim]all under {output.plain(folder)}[/dim]", soft_wrap=True)


def _print_leaks(found: "Audit", num: int) -> None:
    if found.leaks:
        output.table(
            "\nOne picture in two splits",
            ("image", "split", "looks like", "its split", "bits apart"),
            [(one.first, one.first_split, one.second, one.second_split, one.distance) for one in found.leaks[:num]],
        )


def _print_sum(found: "Audit", num: int) -> None:
    console = output.console()
    nums = Counter(one.split for one in found.suspects)
    by_split = ", ".join(f"{nums[split]:,} in {split}" for split in ("test", "val", "train"))
    console.print(
        f"\n- {len(found.suspects):,} of {found.num:,} labels are suspect ({by_split}); "
        f"{len(found.leaks) or 'no'} near duplicates are in two splits.",
        soft_wrap=True,
    )
    console.print(
        f"- Heads on {found.base} that had not seen an image were right about {found.balanced_accuracy:.1%} of a class "
        "in the mean; of such finds about half are real.",
        soft_wrap=True,
    )
    for what, names in (("too few images to audit", found.left_out), ("no longer to be read", found.lost)):
        if names:
            console.print(f"- {what}: {output.plain(', '.join(names[:5]))}, {len(names):,} in all.", soft_wrap=True)
    if len(found.suspects) > num:
        console.print(f"- These are the first {num:,}; --num shows more, --json prints all.")
    if found.suspects:
        console.print(
            f"\nCorrect one with: imagemill labels add IMAGE --label LABEL --model {found.model}; or in the console, "
            "where they wait",
            soft_wrap=True,
        )
