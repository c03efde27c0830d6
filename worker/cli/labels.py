"""Takes labels from a command's arguments or a file. Gives recorded labels, and what the ledger knows of them.

Knows nothing of the broker: it works while Redis is down.
"""

import getpass
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from worker import label_files, label_studio, manifests
from worker.cli import output
from worker.cli.parsing import model_name
from worker.learning_messages import LabelledImage, LabelsReceipt
from worker.settings import Settings

#: Refused labels shown on a terminal at most.
MOST_ROWS = 20


def add(asked: Namespace, settings: Settings) -> int:
    """Label references, paths, globs and folders. Gives 1 if any label was refused."""
    said = LabelledImage.parse(
        {"reference": "-", "label": asked.label, "who": asked.who or getpass.getuser(), "source": "cli"}
        | ({"group": asked.group} if asked.group else {})
    )
    items = manifests.from_references(asked.references)

    def source() -> Iterator[LabelledImage]:
        return (
            LabelledImage(label=said.label, reference=item.reference, who=said.who, source="cli", group=said.group)
            for item in items()
        )

    return _record(asked, settings, source)


def imported(asked: Namespace, settings: Settings) -> int:
    """Record a folder per class, a CSV, a JSONL or a Label Studio export. Gives 1 if any label was refused."""
    origin = label_files.Origin(who=asked.who or getpass.getuser(), project=project(asked))
    return _record(asked, settings, label_files.open_source(Path(asked.source), origin, form=asked.format))


def stats(asked: Namespace, settings: Settings) -> int:
    """Print counts per class and split, near duplicates and conflicts."""
    from db import labels, session
    from worker import runtime

    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        known = labels.stats(reading, model_name(asked.model))
    if asked.json:
        output.as_json(known)
        return 0
    columns = ("train", "val", "test", "excluded")
    output.table(
        f"Labels of {asked.model}",
        ("class", *columns, "images"),
        [
            (f"{one.name} (removed)" if one.is_removed else one.name, *(getattr(one, split) for split in columns),
             one.num + one.excluded)
            for one in known.per_class
        ],
    )  # fmt: skip
    output.console().print(
        f"{known.num_images:,} images in {known.num_groups:,} groups, {known.num_near_duplicates:,} near duplicates of "
        f"others, {known.num_events:,} labels given."
    )
    if known.conflicts:
        output.table(
            "\nConflicts",
            ("image", "labels", "by", "looks like"),
            [(one.reference, ", ".join(one.labels), ", ".join(one.who), one.near_reference) for one in known.conflicts],
        )
    return 0


def project(asked: Namespace) -> label_studio.Project:
    """Read how a Label Studio project's tasks are read."""
    return label_studio.Project(
        image=asked.image_field, choices=asked.choices, local_files=asked.local_files, uploads=asked.uploads
    )


def _record(asked: Namespace, settings: Settings, source: label_files.LabelSource) -> int:
    from worker import labelling, runtime

    model, num_labels = model_name(asked.model), label_files.check(source)
    with runtime.ledger(settings) as sessions:
        labeller = labelling.open_labeller(settings.or_here(), sessions)
        try:
            with output.progress(f"labels of {model}", num_labels) as show:
                receipt = labelling.record(labeller, model, source(), on_recorded=show)
        finally:
            labeller.pool.shutdown(cancel_futures=True)
    _say(asked, receipt)
    return 1 if receipt.refused else 0


def _say(asked: Namespace, receipt: LabelsReceipt) -> None:
    if asked.json:
        output.as_json(receipt)
        return
    near = f" {receipt.num_near_duplicates:,} look like images that were there." if receipt.num_near_duplicates else ""
    output.console().print(
        f"Labels of {receipt.model}: {receipt.num_added:,} added, {receipt.num_corrected:,} corrected, "
        f"{receipt.num_unchanged:,} unchanged, {len(receipt.refused):,} refused.{near}"
    )
    if receipt.refused:
        output.table(
            "Refused",
            ("item", "label", "what happened"),
            [(one.reference or one.position + 1, one.label, one.message) for one in receipt.refused[:MOST_ROWS]],
        )
    if len(receipt.refused) > MOST_ROWS:
        output.console().print(f"These are the first {MOST_ROWS}; --json prints all.")
