"""Standings: how the images that labels arrive for stand already, and what is around them.

Takes content hashes, event keys and prints. Gives what the ledger holds of them: places, labels, near images, counts.
Knows nothing of what is decided about new ones, and writes nothing.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import ColumnElement, ScalarSelect, exists, func, select, union
from sqlalchemy.orm import QueryableAttribute, Session, aliased

from db.groups import FLOOR_NUM, FLOOR_TEST, Floors, Place, Placed
from db.models import Group, Image, Label
from db.near import Print, Wanted, unsigned
from db.session import among
from db.splits import Split

#: ids in one statement
CHUNK = 1000
_SHELVES = (Image.shelf0, Image.shelf1, Image.shelf2, Image.shelf3, Image.shelf4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An image between two labels."""

    place: Place
    #: None before its first label
    class_number: int | None = None
    #: the class that each (who, source) gave it last
    said: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def labelled(self, class_number: int, who: str, source: str) -> "Standing":
        """Give the standing after another label."""
        return replace(self, class_number=class_number, said={**self.said, (who, source): class_number})


def standings(session: Session, model: str, sha256s: Collection[str]) -> dict[str, Standing]:
    """Read how images stand, by content hash; those that are new have no standing."""
    images = select(Image.id, Image.sha256, Image.near_sha256, Group.key, Group.split)
    chosen = images.join(Group, Group.id == Image.group_id).where(
        Image.model == model, among(session, Image.sha256, sha256s)
    )
    found = session.execute(chosen).all()
    names = {image_id: sha256 for image_id, sha256, *_ in found}
    standing = {
        sha256: Standing(place=Place(key=key, split=split, near_sha256=near_sha256))
        for _, sha256, near_sha256, key, split in found
    }
    events = select(Label.image_id, Label.class_number, Label.who, Label.source)
    events = events.where(among(session, Label.image_id, names)).order_by(Label.id)
    for image_id, class_number, who, source in session.execute(events):
        standing[names[image_id]] = standing[names[image_id]].labelled(class_number, who, source)
    return standing


def sent_before(session: Session, model: str, event_keys: Collection[str]) -> dict[str, str]:
    """Give the content hash of the image of each event that was sent before, by the event's key."""
    if not event_keys:
        return {}
    events = select(Label.event_key, Image.sha256).join(Image, Image.id == Label.image_id)
    found = session.execute(events.where(Label.model == model, among(session, Label.event_key, event_keys)))
    return {event_key: sha256 for event_key, sha256 in found if event_key is not None}


def image_ids(session: Session, model: str, sha256s: Collection[str]) -> dict[str, int]:
    """Give the ids of the images that are there, by content hash."""
    chosen = select(Image.sha256, Image.id).where(Image.model == model, among(session, Image.sha256, sha256s))
    return dict(session.execute(chosen).all())


def group_ids(session: Session, model: str, keys: Collection[str]) -> dict[str, int]:
    """Give the ids of the groups that are there, by key."""
    chosen = select(Group.key, Group.id).where(Group.model == model, among(session, Group.key, keys))
    return dict(session.execute(chosen).all())


def group_splits(session: Session, model: str, keys: Collection[str]) -> dict[str, Split]:
    """Give the splits of the groups that are there, by key."""
    chosen = select(Group.key, Group.split).where(Group.model == model, among(session, Group.key, keys))
    return dict(session.execute(chosen).all())


def floors(session: Session, model: str, numbers: Collection[int], standing: Iterable[Standing]) -> Floors:
    """Count the images of classes as far as it matters: up to the floor, and as many as may leave them meanwhile.

    `standing` are the images whose label may change before the next look.
    """
    leaving = Counter(one.class_number for one in standing)
    nums_test = {
        number: _count(session, model, number, Group.split == "test", limit=FLOOR_TEST + leaving[number])
        for number in numbers
    }
    nums = {
        number: _count(session, model, number, Group.split != "excluded", limit=FLOOR_NUM + leaving[number])
        for number in numbers
        if nums_test[number] < FLOOR_TEST + leaving[number]
    }
    return Floors(nums, nums_test)


def near(session: Session, model: str, prints: Collection[Print]) -> list[Placed]:
    """Read the images that one of these prints may nearly repeat; first their hashes alone."""
    if not prints:
        return []
    wanted = Wanted()
    for one in prints:
        wanted.add(one)
    hashes = select(Image.id, Image.dhash, *_SHELVES).where(Image.model == model)
    # One walk of an index for each shelf: an OR of them would be a walk through the table.
    sharing = [
        hashes.where(among(session, shelf, reached)) for shelf, reached in zip(_SHELVES, wanted.reached(), strict=True)
    ]
    found = session.execute(union(*sharing))
    ids = [image_id for image_id, dhash, *shelves in found if wanted.has_near(unsigned(dhash), shelves)]
    return [placed for start in range(0, len(ids), CHUNK) for placed in _placed(session, ids[start : start + CHUNK])]


def last(session: Session, model: str) -> int:
    """Give the number of a model's newest label, 0 if there is none.

    Labels are added one transaction after the other, so none with a smaller number is still to come.
    """
    return session.execute(select(func.coalesce(func.max(Label.id), 0)).where(Label.model == model)).scalar_one()


def latest_of(image_id: QueryableAttribute[int], until: int | None = None) -> ScalarSelect[int]:
    """Give the number of an image's latest label, or of what was its latest when the one numbered `until` was.

    Looked up image by image, by an index. For all images at once, `is_latest` is quicker.
    """
    label = aliased(Label)
    newest = select(func.max(label.id)).where(label.image_id == image_id)
    if until is not None:
        newest = newest.where(label.id <= until)
    return newest.scalar_subquery()


def is_latest(label: type[Label] = Label) -> ColumnElement[bool]:
    """Hold where a label is its image's latest."""
    later = aliased(Label)
    return ~exists().where(later.image_id == label.image_id, later.id > label.id)


def _count(session: Session, model: str, number: int, condition: ColumnElement[bool], *, limit: int) -> int:
    images = (
        select(Label.id)
        .join(Image, Image.id == Label.image_id)
        .join(Group, Group.id == Image.group_id)
        .where(Label.model == model, Label.class_number == number, condition, Label.id == latest_of(Label.image_id))
        .limit(limit)
    )
    return session.execute(select(func.count()).select_from(images.subquery())).scalar_one()


def _placed(session: Session, ids: Sequence[int]) -> list[Placed]:
    images = select(Image.sha256, Image.dhash, Image.thumbnail, Group.key, Group.split, *_SHELVES)
    found = session.execute(images.join(Group, Group.id == Image.group_id).where(among(session, Image.id, ids)))
    return [
        Placed(
            sha256=sha256,
            print=Print(dhash=unsigned(dhash), thumbnail=thumbnail),
            shelves=tuple(shelves),
            place=Place(key=key, split=split),
        )
        for sha256, dhash, thumbnail, key, split, *shelves in found
    ]
