"""Takes a model, and names. Gives its classes: listed, removed, or closed.

Knows nothing of images. No command moves a class to another number.
"""

from argparse import Namespace

from db import classes, labels, session
from worker import playbook, runtime
from worker.cli import output
from worker.cli.parsing import model_name
from worker.learning_messages import LabelledImage
from worker.messages import MessageInvalid
from worker.settings import Settings


def listed(asked: Namespace, settings: Settings) -> int:
    """Print the classes by number, and what is labelled so."""
    model_name(asked.model)
    with runtime.ledger(settings) as sessions, session.reading(sessions) as reading:
        known, counts = labels.classes(reading, asked.model), labels.counts(reading, asked.model)
        is_fixed = classes.is_fixed(reading, asked.model)
    rows = list(zip(known, counts, strict=True))
    if asked.json:
        found = [
            {"number": one.number, "name": one.name, "is_removed": one.is_removed, "train": count.train,
             "val": count.val, "test": count.test, "excluded": count.excluded}
            for one, count in rows
        ]  # fmt: skip
        output.as_json({"model": asked.model, "is_fixed": is_fixed, "classes": found})
        return 0
    output.table(
        f"Classes of {asked.model}",
        ("number", "class", "state", "train", "val", "test", "excluded", "images"),
        [
            (
                one.number, one.name, "removed" if one.is_removed else "", count.train, count.val, count.test,
                count.excluded, count.num + count.excluded,
            )
            for one, count in rows
        ],
    )  # fmt: skip
    if is_fixed:
        output.console().print("The list is closed: labels of any other class are refused.")
    return 0


def removed(asked: Namespace, settings: Settings) -> int:
    """Mask a class. Raises `UnknownClass`."""
    _refuse_if_listed(settings, asked.model)
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        labels.remove_class(transaction, asked.model, asked.name)
        found = next(one for one in labels.classes(transaction, asked.model) if one.name == asked.name)
        count = labels.counts(transaction, asked.model)[found.number]
    if asked.json:
        output.as_json({"model": asked.model, "removed": [found]})
        return 0
    output.console().print(
        f"Class {output.plain(asked.name)} of {asked.model} is removed: it keeps its number {found.number} and its "
        f"{count.num + count.excluded:,} labels, and takes no part in the next run. A new label or fix-classes brings "
        "it back.",
        soft_wrap=True,
    )
    return 0


def fixed(asked: Namespace, settings: Settings) -> int:
    """Close the class list, at these names or as it stands."""
    _refuse_if_listed(settings, asked.model)
    names = [_name(text) for text in asked.names]
    with runtime.ledger(settings) as sessions, session.transaction(sessions) as transaction:
        before = {one.name for one in labels.classes(transaction, asked.model, removed=False)}
        if not names and not before:
            raise MessageInvalid(f"Model {asked.model!r} has no classes yet: name those that there are to be.")
        labels.fix_classes(transaction, asked.model, names)
        after = labels.classes(transaction, asked.model)
    stay = [one.name for one in after if not one.is_removed]
    gone = sorted(before - set(stay))
    if asked.json:
        output.as_json({"model": asked.model, "is_fixed": True, "classes": after, "removed": gone})
        return 0
    lost = f" Removed: {output.plain(', '.join(gone))}." if gone else ""
    output.console().print(
        f"The classes of {asked.model} are closed at {output.plain(', '.join(stay))}.{lost}", soft_wrap=True
    )
    return 0


def _refuse_if_listed(settings: Settings, model: str) -> None:
    """Raise `MessageInvalid` if the playbook lists the classes: the next label would undo what is changed here."""
    if playbook.read(settings.playbook, model_name(model)).classes:
        raise MessageInvalid(f"The playbook lists the classes of {model}: change `classes` in {settings.playbook}.")


def _name(text: str) -> str:
    """Read a name as a label is read, for it must be one. Raises `MessageInvalid`."""
    return LabelledImage.parse({"reference": "-", "label": text}).label
