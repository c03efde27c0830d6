"""Arrivals: labels as they come in.

Takes labels with the fingerprints of their images. Gives each new image its group and split, once, and each label its
event. Knows nothing of pixels or files.

A model's label set is locked meanwhile: groups and classes are decided one after the other, whoever asks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from db import classes, standings
from db.groups import Floors, Place, Placing, group_key
from db.models import Group, Image, Label, LabelSet
from db.near import Print, shelves_of, signed
from db.splits import Split
from db.standings import CHUNK, Standing

Status = Literal["added", "corrected", "unchanged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLabel:
    """What somebody says of an image."""

    #: hex digest of the file
    sha256: str
    #: difference hash of the upright image, 64 bits, unsigned
    dhash: int
    #: 16 x 16 grey pixels of the upright image, 256 bytes
    thumbnail: bytes | None
    reference: str
    #: name of the class
    label: str
    who: str
    #: the way it came: cli, folder, label_studio...
    source: str
    #: the caller's name for images that must not be told apart: a patient, a session, a product
    group: str | None = None
    #: the sender's name for this event: a second one changes nothing
    event_key: str | None = None

    @property
    def print(self) -> Print:
        """Give what near duplicates are found by."""
        return Print(dhash=self.dhash, thumbnail=self.thumbnail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of a new label."""

    image_id: int
    #: None where nothing was written
    label_id: int | None
    split: Split
    group_id: int
    is_new_image: bool
    #: the image nearly repeats another one
    is_near_duplicate: bool
    #: `added`: first of its image, or agreeing with somebody else; `unchanged`: what its sender had said already
    status: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """What a new label comes to, before it is written."""

    label: NewLabel
    #: of the image it is about
    sha256: str
    class_number: int | None
    status: Status
    is_new_image: bool


def add(session: Session, model: str, labels: Sequence[NewLabel]) -> list[Added]:
    """Write labels down in their order; gives what became of each.

    Raises UnknownClass for a class that a fixed list does not have: roll back then, for some may be written.
    """
    chunks = (labels[start : start + CHUNK] for start in range(0, len(labels), CHUNK))
    return [added for chunk in chunks for added in _add(session, model, chunk)]


def known(session: Session, model: str, sha256s: Iterable[str]) -> set[str]:
    """Tell which images, by content hash, a model has labels of."""
    asked = list(dict.fromkeys(sha256s))
    chunks = (asked[start : start + CHUNK] for start in range(0, len(asked), CHUNK))
    return {sha256 for chunk in chunks for sha256 in standings.image_ids(session, model, chunk)}


def _add(session: Session, model: str, chunk: Sequence[NewLabel]) -> list[Added]:
    deciding = _Deciding(session, classes.lock(session, model), chunk)
    decided = [deciding.decide(label) for label in chunk]
    places = {one.sha256: deciding.standing[one.sha256].place for one in decided}
    group_ids = _write_groups(session, model, places.values())
    image_ids = _write_images(session, model, decided, places, group_ids)
    label_ids = _write_events(session, model, decided, image_ids)
    return [
        Added(
            image_id=image_ids[one.sha256],
            label_id=label_id,
            split=places[one.sha256].split,
            group_id=group_ids[places[one.sha256].key],
            is_new_image=one.is_new_image,
            is_near_duplicate=places[one.sha256].near_sha256 is not None,
            status=one.status,
        )
        for one, label_id in zip(decided, label_ids, strict=True)
    ]


class _Deciding:
    """Decides on labels one after the other, each in the light of all before it; writes new classes and no more."""

    def __init__(self, session: Session, label_set: LabelSet, chunk: Sequence[NewLabel]) -> None:
        """Read all that the decisions rest on, whatever the number of labels, in a few statements."""
        model = label_set.model
        keys = [label.event_key for label in chunk if label.event_key is not None]
        #: content hash of the image of each event that was sent before
        self.sent = standings.sent_before(session, model, keys)
        fresh = [label for label in chunk if label.event_key not in self.sent]
        self.numbers = _numbers(session, label_set, [label.label for label in fresh])
        asked = {label.sha256 for label in fresh} | set(self.sent.values())
        self.standing = standings.standings(session, model, asked)
        arriving = [label for label in fresh if label.sha256 not in self.standing]
        self.floors = standings.floors(
            session, model, {self.numbers[label.label] for label in arriving}, self.standing.values()
        )
        self.placing = _placing(session, label_set, arriving, self.floors)

    def decide(self, label: NewLabel) -> _Decided:
        """Decide on one label, and note what it changes for those after it."""
        if label.event_key is not None and label.event_key in self.sent:
            sha256 = self.sent[label.event_key]
            return _Decided(label=label, sha256=sha256, class_number=None, status="unchanged", is_new_image=False)
        sha256, number = label.sha256, self.numbers[label.label]
        is_new = sha256 not in self.standing
        if is_new:
            self.standing[sha256] = Standing(place=self.placing.place(sha256, label.print, label.group, number))
        status = _status(self.standing[sha256], label, number)
        if status != "unchanged":
            self._note(label, number)
        return _Decided(label=label, sha256=sha256, class_number=number, status=status, is_new_image=is_new)

    def _note(self, label: NewLabel, number: int) -> None:
        standing = self.standing[label.sha256]
        self.floors.move(standing.class_number, number, standing.place.split)
        self.standing[label.sha256] = standing.labelled(number, label.who, label.source)
        if label.event_key is not None:
            self.sent[label.event_key] = label.sha256


def _status(standing: Standing, label: NewLabel, number: int) -> Status:
    is_repeated = standing.said.get((label.who, label.source)) == number
    if standing.class_number in (None, number):
        return "unchanged" if is_repeated else "added"
    # A folder that is imported again must not undo what somebody corrected since; an event of its own may.
    return "unchanged" if is_repeated and label.event_key is None else "corrected"


def _numbers(session: Session, label_set: LabelSet, names: Sequence[str]) -> dict[str, int]:
    if label_set.is_fixed:
        classes.check_known(session, label_set.model, names)
    return classes.number_all(session, label_set.model, names)


def _placing(session: Session, label_set: LabelSet, arriving: Sequence[NewLabel], floors: Floors) -> Placing:
    keys = {group_key(label.group) for label in arriving if label.group is not None}
    return Placing(
        salt=label_set.salt,
        near=standings.near(session, label_set.model, [label.print for label in arriving]),
        named=standings.group_splits(session, label_set.model, keys),
        floors=floors,
    )


def _write_groups(session: Session, model: str, places: Iterable[Place]) -> dict[str, int]:
    """Write the groups that are new; gives the ids of all, by key."""
    splits = {place.key: place.split for place in places}
    there = standings.group_ids(session, model, splits)
    new = [{"model": model, "key": key, "split": split} for key, split in splits.items() if key not in there]
    if not new:
        return there
    session.execute(insert(Group), new)
    return standings.group_ids(session, model, splits)


def _write_images(
    session: Session,
    model: str,
    decided: Sequence[_Decided],
    places: Mapping[str, Place],
    group_ids: Mapping[str, int],
) -> dict[str, int]:
    """Write the images that are new; gives the ids of all, by content hash."""
    new = [one.label for one in decided if one.is_new_image]
    if new:
        rows = [_image_row(model, label, places[label.sha256], group_ids) for label in new]
        session.execute(insert(Image), rows)
    return standings.image_ids(session, model, places)


def _image_row(model: str, label: NewLabel, place: Place, group_ids: Mapping[str, int]) -> dict[str, object]:
    shelves = {f"shelf{n}": shelf for n, shelf in enumerate(shelves_of(label.print))}
    return {
        "model": model,
        "sha256": label.sha256,
        "dhash": signed(label.dhash),
        "thumbnail": label.thumbnail,
        "group_id": group_ids[place.key],
        "near_sha256": place.near_sha256,
        "reference": label.reference,
        **shelves,
    }


def _write_events(
    session: Session, model: str, decided: Sequence[_Decided], image_ids: Mapping[str, int]
) -> list[int | None]:
    """Write an event for each label that says something new; gives its id, or None."""
    rows = [
        {
            "image_id": image_ids[one.sha256],
            "model": model,
            "class_number": one.class_number,
            "who": one.label.who,
            "source": one.label.source,
            "reference": one.label.reference,
            "event_key": one.label.event_key,
        }
        for one in decided
        if one.status != "unchanged"
    ]
    before = standings.last(session, model)
    if rows:
        session.execute(insert(Label), rows)
    # The label set is locked, so all that is numbered since is ours, and in our order.
    since = select(Label.id).where(Label.model == model, Label.id > before).order_by(Label.id)
    ids = iter(session.scalars(since).all() if rows else [])
    return [None if one.status == "unchanged" else next(ids) for one in decided]
