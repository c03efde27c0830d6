"""Classes: a model's list of names, each with a number for ever.

Takes names. Gives their numbers; a list only grows, and what is removed from it is masked.
Knows nothing of images or labels. Whoever writes here has locked the model's label set.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from db import errors
from db import session as database
from db.models import Class, LabelSet
from db.session import now_s

#: names that an error lists
MAX_NAMES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class of a model."""

    #: its place in the network's output
    number: int
    name: str
    is_removed: bool


def lock(session: Session, model: str, *, salt: str = "") -> LabelSet:
    """Lock a model's label set until the transaction ends; the first to ask makes it, with this salt or its own."""
    locked = select(LabelSet).where(LabelSet.model == model).with_for_update()
    while (found := session.scalar(locked)) is None:
        made = database.insert(session, LabelSet).values(model=model, salt=salt or secrets.token_hex(16))
        session.execute(made.on_conflict_do_nothing())
    return found


def classes(session: Session, model: str, *, removed: bool = True) -> list[ClassRow]:
    """List a model's classes by number; without the removed ones if `removed` is false."""
    chosen = select(Class).where(Class.model == model).order_by(Class.number)
    if not removed:
        chosen = chosen.where(Class.removed_at_s.is_(None))
    return [
        ClassRow(number=found.number, name=found.name, is_removed=found.removed_at_s is not None)
        for found in session.scalars(chosen)
    ]


def is_fixed(session: Session, model: str) -> bool:
    """Tell whether a model's class list is closed."""
    return bool(session.scalar(select(LabelSet.is_fixed).where(LabelSet.model == model)))


def open_classes(session: Session, model: str, names: Iterable[str]) -> None:
    """Give these names the next numbers, in this order; the list stays open."""
    lock(session, model)
    number_all(session, model, names)


def fix_classes(session: Session, model: str, names: Iterable[str]) -> None:
    """Close a model's class list at exactly these names, in this order where they are new.

    A class that is not among them is removed; without names the list is closed as it stands.
    """
    wanted = list(dict.fromkeys(names))
    lock(session, model)
    if wanted:
        number_all(session, model, wanted)
        rest = update(Class).where(Class.model == model, Class.name.not_in(wanted), Class.removed_at_s.is_(None))
        session.execute(rest.values(removed_at_s=now_s()))
    session.execute(update(LabelSet).where(LabelSet.model == model).values(is_fixed=True))


def remove_class(session: Session, model: str, name: str) -> None:
    """Mask a class: its number stays, its labels stay, and a label or `fix_classes` brings it back.

    Raises UnknownClass.
    """
    lock(session, model)
    removed = update(Class).where(Class.model == model, Class.name == name, Class.removed_at_s.is_(None))
    if not session.scalars(removed.values(removed_at_s=now_s()).returning(Class.number)).all():
        raise errors.UnknownClass(f"Model {model!r} has no class {name!r}.")


def check_known(session: Session, model: str, names: Iterable[str]) -> None:
    """Raise UnknownClass for names that a fixed list does not have, or no longer."""
    known = {found.name for found in classes(session, model, removed=False)}
    if unknown := sorted(set(names) - known):
        listed = ", ".join(sorted(known)[:MAX_NAMES]) + (", ..." if len(known) > MAX_NAMES else "")
        raise errors.UnknownClass(
            f"The class list of {model!r} is fixed and has no class {unknown[0]!r}; it has: {listed or 'none'}."
        )


def number_all(session: Session, model: str, names: Iterable[str]) -> dict[str, int]:
    """Give the numbers of names; new ones take the next numbers in their order, removed ones come back."""
    known = {found.name: found for found in classes(session, model)}
    wanted = dict.fromkeys(names)
    new = [name for name in wanted if name not in known]
    numbered = {name: number for number, name in enumerate(new, start=len(known))}
    back = [name for name in wanted if name in known and known[name].is_removed]
    if new:
        session.execute(insert(Class), [{"model": model, "number": numbered[name], "name": name} for name in new])
    if back:
        session.execute(update(Class).where(Class.model == model, Class.name.in_(back)).values(removed_at_s=None))
    return {name: numbered[name] if name in numbered else known[name].number for name in wanted}
