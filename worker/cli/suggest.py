"""Takes a model. Gives the images to label next: as a table, as a file to fill in, or as Label Studio's tasks.

Knows nothing of the broker: it works while Redis is down.
"""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from db import proposals, session
from worker import label_studio, manifests, playbook, runtime, worklists
from worker.cli import output
from worker.cli.parsing import model_name
from worker.messages import MessageInvalid
from worker.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from worker.learning.suggesting import Found, Suggested

#: what each kind of choice is, and what its score says
WHYS = {
    "typical": "stands for many images that have no label; its score is how near they are, more is better",
    "margin": "the model wavers; its score is the first probability minus the second, less is better",
    "random": "drawn at random, which keeps what is measured honest",
}
#: unreadable images that are named
MOST_LOST = 3


def suggest(asked: Namespace, settings: Settings) -> int:
    """Print what to label next, and write it to a file if asked."""
    form = _form(asked)
    found = _found(asked, settings)
    if form is not None:
        entries = [
            worklists.Entry(reference=one.reference, predicted=one.predicted, probability=one.probability)
            for one in found.suggestions
        ]
        project = label_studio.Project(
            image=asked.image_field, choices=asked.choices, local_files=asked.local_files and _absolute(asked)
        )
        worklists.write(entries, Path(asked.out), form, version=found.version, project=project)
    if asked.json:
        output.as_json(found)
    else:
        _print(found, is_recent=asked.sources is None)
        _say_next(asked, found, form)
    return 0


def _form(asked: Namespace) -> str | None:
    if asked.out:
        return worklists.form_of(Path(asked.out), asked.format)
    if asked.format:
        raise MessageInvalid("A --format is of a file: give --out FILE.")
    return None


def _absolute(asked: Namespace) -> str:
    return str(Path.cwd() / asked.local_files) if "://" not in asked.local_files else asked.local_files


def _found(asked: Namespace, settings: Settings) -> "Found":
    from worker.learning import suggesting, workshop

    references = None
    if asked.sources is not None:
        references = tuple(item.reference for item in manifests.from_references(asked.sources)())
    wish = suggesting.Wish(
        model=model_name(asked.model), references=references, num=asked.num, base=asked.base, seed=asked.seed
    )
    known = playbook.read(settings.playbook, asked.model)
    with (
        runtime.ledger(settings) as sessions,
        workshop.opened(settings.or_here(), sessions) as opened,
        output.errors().status("Looking at images without a label ..."),
    ):
        found = suggesting.suggest(opened, wish, known)
        _propose(sessions, found)
        return found


def _propose(sessions: "sessionmaker[Session]", found: "Found") -> None:
    """Let the suggestions wait on the console's review page."""
    new = [
        proposals.NewProposal(
            reference=one.reference,
            sha256=one.sha256,
            why=one.why,
            score=one.score,
            suggested=one.predicted,
            probability=one.probability,
        )
        for one in found.suggestions
    ]
    with session.transaction(sessions) as transaction:
        proposals.replace(transaction, found.model, "suggest", found.version, new)


def _print(found: "Found", *, is_recent: bool) -> None:
    folder, names = output.apart([one.reference for one in found.suggestions])
    columns = ("image", "why", "score", "predicted", "probability")
    has_predictions = any(one.predicted for one in found.suggestions)
    shown = len(columns) if has_predictions else 3
    rows = [_row(name, one)[:shown] for name, one in zip(names, found.suggestions, strict=True)]
    output.table(f"To label next for {found.model}", columns[:shown], rows)
    console = output.console()
    if folder and names:
        console.print(f"[dim]all under {output.plain(folder)}[/dim]", soft_wrap=True)
    console.print()
    for why in dict.fromkeys(one.why for one in found.suggestions):
        console.print(f"- [bold]{why}[/bold]: {WHYS[why]}.", soft_wrap=True)
    if is_recent and not found.num_pool + found.num_labelled + len(found.lost):
        console.print(f"No version of {found.model} has classified anything lately: name images with --from.")
        return
    pool = "images that were classified last" if is_recent else "images"
    others = f"; {found.num_labelled:,} others have a label already" if found.num_labelled else ""
    console.print(
        f"- {found.version} looked at {found.num_pool:,} {pool}{others}. "
        f"The median class has {found.num_per_class:,.0f} labels.",
        soft_wrap=True,
    )
    for one in found.lost[:MOST_LOST]:
        console.print(f"- [yellow]{output.plain(one.reference)}: {output.plain(one.reason)}[/yellow]", soft_wrap=True)
    if len(found.lost) > MOST_LOST:
        console.print(f"- [yellow]{len(found.lost):,} images cannot be read; --json names all.[/yellow]")


def _row(name: str, one: "Suggested") -> tuple[object, ...]:
    score = "" if one.why == "random" else f"{one.score:.3f}"
    return name, one.why, score, one.predicted, None if one.probability is None else f"{one.probability:.2f}"


def _say_next(asked: Namespace, found: "Found", form: str | None) -> None:
    if not found.suggestions:
        return
    if form == "jsonl":
        said = f'fill in each "label" of {asked.out}, then: imagemill labels import {asked.out} --model {found.model}'
    elif form == "label-studio":
        said = f"import {asked.out} into a Label Studio project; `imagemill webhook` takes its labels"
    else:
        said = "write them down with --out FILE.jsonl, or for Label Studio with --out FILE.json"
    output.console().print(
        f"\nNext: {output.plain(said)}; or label them in the console, where they wait", soft_wrap=True
    )
