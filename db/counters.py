"""Counters: sums that only rise, whoever adds to them and however often that process starts anew.

Takes amounts by name and labels. Gives the sums.
Knows nothing of what is counted, nor of who reads it. Two that add at once wait for each other in one order only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import models
from db import session as database


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One sum."""

    name: str
    labels: Mapping[str, str]
    value: float


#: a name, and labels in their order
Key = tuple[str, tuple[tuple[str, str], ...]]


def add(session: Session, amounts: Mapping[Key, float]) -> None:
    """Add each amount to its sum, which begins at none."""
    row = models.Counter
    given = [
        {"name": name, "labels": json.dumps(dict(labels), separators=(",", ":")), "value": amount}
        for (name, labels), amount in sorted(amounts.items())
    ]
    if given:
        first = database.insert(session, row)
        again = first.on_conflict_do_update(
            index_elements=[row.name, row.labels], set_={"value": row.value + first.excluded.value}
        )
        session.execute(again, given)


def counts(session: Session) -> list[Count]:
    """Read all sums: some hundred rows, whatever was counted."""
    found = session.execute(select(models.Counter.name, models.Counter.labels, models.Counter.value))
    return [Count(name=name, labels=json.loads(labels), value=value) for name, labels, value in found]
