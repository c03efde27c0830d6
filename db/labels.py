"""Labels: what was said of images, as events that are never changed.

Takes labels, by way of `arrivals` and `classes`. Gives the latest of each image, counts, conflicts and what is new.
Knows nothing of pixels, files or training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TypeVarTuple

from sqlalchemy import Select, and_, exists, func, select
from sqlalchemy.orm import Session, aliased

from db.arrivals import Added, NewLabel, Status, add, known
from db.classes import ClassRow, classes, fix_classes, is_fixed, open_classes, remove_class
from db.models import Class, Group, Image, Label
from db.session import among
from db.splits import Split
from db.standings import is_latest, last, latest_of

__all__ = [
    "Added",
    "ClassCount",
    "ClassRow",
    "Conflict",
    "Current",
    "New",
    "NewLabel",
    "Stats",
    "Status",
    "add",
    "classes",
    "counts",
    "current",
    "fix_classes",
    "is_fixed",
    "known",
    "last",
    "new_since",
    "open_classes",
    "remove_class",
    "stats",
]

Columns = TypeVarTuple("Columns")

#: rows `current` holds at a time
PAGE = 2000
#: conflicts of each kind that `stats` lists
MAX_CONFLICTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The latest label of an image."""

    sha256: str
    #: where the image lay when the label was given
    reference: str
    label: str
    split: Split
    label_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCount:
    """The images of a class, by split."""

    name: str
    is_removed: bool
    train: int
    val: int
    test: int
    excluded: int

    @property
    def num(self) -> int:
        """Count those that take part."""
        return self.train + self.val + self.test


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """An image of which people say different things, or near duplicates with different labels."""

    reference: str
    labels: tuple[str, ...]
    #: who gave each
    who: tuple[str, ...]
    #: the image it nearly repeats, where that has the other label
    near_reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A model's labels in numbers."""

    num_images: int
    num_events: int
    num_groups: int
    #: images that nearly repeat an earlier one
    num_near_duplicates: int
    #: by class number
    per_class: tuple[ClassCount, ...]
    #: up to `MAX_CONFLICTS` of each kind
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """What changed since some label."""

    #: images that have a label they did not have then
    num: int
    per_class: dict[str, int]
    #: classes without a label then
    new_classes: tuple[str, ...]


def current(session: Session, model: str, *, until: int | None = None) -> Iterator[Current]:
    """Read the latest label of each image by content hash, a page in memory at a time.

    Labels after the one numbered `until` do not count: by default, after the newest at the start. Images of removed
    classes and of excluded groups are left out.
    """
    until = last(session, model) if until is None else until
    after = ""
    while page := _images_after(session, model, after):
        yield from _current_of(session, list(page), until=until)
        after = max(page.values())


def counts(session: Session, model: str) -> list[ClassCount]:
    """Count the images of each class by split, by class number."""
    tallied = (
        select(Label.class_number, Group.split, func.count())
        .join(Image, Image.id == Label.image_id)
        .join(Group, Group.id == Image.group_id)
        .where(Label.model == model, is_latest())
        .group_by(Label.class_number, Group.split)
    )
    nums = {(number, split): num for number, split, num in session.execute(tallied)}
    return [
        ClassCount(
            name=one.name,
            is_removed=one.is_removed,
            train=nums.get((one.number, "train"), 0),
            val=nums.get((one.number, "val"), 0),
            test=nums.get((one.number, "test"), 0),
            excluded=nums.get((one.number, "excluded"), 0),
        )
        for one in classes(session, model)
    ]


def stats(session: Session, model: str) -> Stats:
    """Sum up a model's labels."""
    images = select(func.count(Image.id), func.count(Image.near_sha256)).where(Image.model == model)
    num_images, num_near = session.execute(images).one()
    events = select(func.count()).select_from(Label).where(Label.model == model)
    groups = select(func.count()).select_from(Group).where(Group.model == model)
    return Stats(
        num_images=num_images,
        num_events=session.execute(events).scalar_one(),
        num_groups=session.execute(groups).scalar_one(),
        num_near_duplicates=num_near,
        per_class=tuple(counts(session, model)),
        conflicts=(*_contested(session, model), *_contradicting(session, model)),
    )


def new_since(session: Session, model: str, label_id: int) -> New:
    """Count what changed after the label numbered `label_id`: images of a class they did not have then.

    Who only agrees with a label adds nothing. Removed classes and excluded groups are left out.
    """
    before = aliased(Label)
    had = (
        select(before.class_number)
        .where(before.image_id == Label.image_id, before.id <= label_id)
        .order_by(before.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    changed = _taking_part(select(Class.name, func.count())).where(
        Label.model == model, Label.id > label_id, is_latest(), func.coalesce(had, -1) != Label.class_number
    )
    found = session.execute(changed.group_by(Class.number, Class.name).order_by(Class.number))
    per_class = dict(found.all())
    return New(num=sum(per_class.values()), per_class=per_class, new_classes=_new_classes(session, model, label_id))


def _images_after(session: Session, model: str, after: str) -> dict[int, str]:
    page = select(Image.id, Image.sha256).where(Image.model == model, Image.sha256 > after)
    return dict(session.execute(page.order_by(Image.sha256).limit(PAGE)).all())


def _current_of(session: Session, image_ids: list[int], *, until: int) -> list[Current]:
    chosen = (
        _taking_part(select(Image.sha256, Label.reference, Class.name, Group.split, Label.id))
        .where(among(session, Image.id, image_ids), Label.id == latest_of(Image.id, until))
        .order_by(Image.sha256)
    )
    return [
        Current(sha256=sha256, reference=reference, label=label, split=split, label_id=label_id)
        for sha256, reference, label, split, label_id in session.execute(chosen)
    ]


def _taking_part(chosen: Select[*Columns]) -> Select[*Columns]:
    """Select from labels, their images, groups and classes: those that something is learnt or judged from."""
    return (
        chosen.select_from(Label)
        .join(Image, Image.id == Label.image_id)
        .join(Group, Group.id == Image.group_id)
        .join(Class, and_(Class.model == Label.model, Class.number == Label.class_number))
        .where(Group.split != "excluded", Class.removed_at_s.is_(None))
    )


def _new_classes(session: Session, model: str, label_id: int) -> tuple[str, ...]:
    labelled = exists().where(Label.model == model, Label.class_number == Class.number)
    chosen = select(Class.name).where(
        Class.model == model,
        Class.removed_at_s.is_(None),
        labelled.where(Label.id > label_id),
        ~labelled.where(Label.id <= label_id),
    )
    return tuple(session.scalars(chosen.order_by(Class.number)))


def _contested(session: Session, model: str) -> list[Conflict]:
    """List images of which people's latest labels differ."""
    later = aliased(Label)
    stands = ~exists().where(later.image_id == Label.image_id, later.who == Label.who, later.id > Label.id)
    images = (
        select(Label.image_id)
        .where(Label.model == model, stands)
        .group_by(Label.image_id)
        .having(func.count(Label.class_number.distinct()) > 1)
        .order_by(Label.image_id)
        .limit(MAX_CONFLICTS)
    )
    said = (
        select(Label.image_id, Image.reference, Class.name, Label.who)
        .join(Image, Image.id == Label.image_id)
        .join(Class, and_(Class.model == Label.model, Class.number == Label.class_number))
        .where(Label.image_id.in_(images.subquery().select()), stands)
        .order_by(Label.image_id, Label.id)
    )
    by_image = groupby(session.execute(said), key=itemgetter(0))
    found = [[(reference, name, who) for _, reference, name, who in events] for _, events in by_image]
    return [
        Conflict(
            reference=events[0][0],
            labels=tuple(name for _, name, _ in events),
            who=tuple(who for _, _, who in events),
        )
        for events in found
    ]


def _contradicting(session: Session, model: str) -> list[Conflict]:
    """List near duplicates whose labels differ."""
    image, label, named = aliased(Image), aliased(Label), aliased(Class)
    differing = (
        select(Image.reference, Class.name, Label.who, image.reference, named.name, label.who)
        .join(Label, Label.image_id == Image.id)
        .join(Class, and_(Class.model == Label.model, Class.number == Label.class_number))
        .join(image, and_(image.model == Image.model, image.sha256 == Image.near_sha256))
        .join(label, label.image_id == image.id)
        .join(named, and_(named.model == label.model, named.number == label.class_number))
        .where(Image.model == model, is_latest(), is_latest(label), label.class_number != Label.class_number)
        .order_by(Image.id)
        .limit(MAX_CONFLICTS)
    )
    return [
        Conflict(reference=reference, labels=(other, name), who=(other_who, who), near_reference=other_reference)
        for reference, name, who, other_reference, other, other_who in session.execute(differing)
    ]
