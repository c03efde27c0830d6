"""Whatever the order of labels, corrections, repeats and changes of the class list, the newest label of an image wins.

A refused label is nowhere; the split of a group and the number of a class are for ever.
"""

import hashlib
from dataclasses import replace
from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from db import classes, errors, labels, models, snapshots
from db.groups import group_key, image_key
from db.splits import share, split_of
from tests.db import builders
from tests.db.builders import MODEL
from tests.properties import tried

NAMES = ("cat", "dog", "ant", "bee")
SALT = "5f"


def drawn(split, num, spelled):
    """Give names that draw a split by themselves, so that every story has images and groups of several."""
    found = (f"{n}" for n in range(10_000) if split_of(share(spelled(f"{n}"), SALT)) == split)
    return [next(found) for _ in range(num)]


def _own(name):
    return image_key(builders.sha256(name))


#: two that train and one that judges
PICTURES = [*drawn("train", 2, _own), *drawn("test", 1, _own)]
#: of each two files; the second nearly repeats the first
IMAGES = [(picture, bits) for picture in PICTURES for bits in (0, 1)]
#: one group that would judge by itself, and one that would choose
PATIENTS = [*drawn("test", 1, group_key), *drawn("val", 1, group_key)]
#: one label: image, class, who says so, by which way, the event's key and the caller's group
SAID = st.tuples(
    st.sampled_from(IMAGES),
    st.sampled_from(NAMES),
    st.sampled_from(["ada", "bob"]),
    st.sampled_from(["cli", "label_studio"]),
    st.sampled_from([None, None, "event 1", "event 2"]),
    st.sampled_from([None, *PATIENTS]),
)


def new_label(said):
    (picture, bits), name, who, source, key, group = said
    told = {"label": name, "who": who, "source": source, "event_key": key, "group": group}
    original = builders.label(picture, **told)
    return builders.again(original, f"{picture} again", bits=bits) if bits else original


class Labelling(RuleBasedStateMachine):
    """People who label, and the plain truth beside the tables; all in one transaction, rolled back."""

    def __init__(self, sessions):
        super().__init__()
        self.session = sessions()
        #: by number
        self.names: list[str] = []
        self.removed: set[str] = set()
        self.is_fixed = False
        #: (label id, sha256, class, who, source) of each event that counted
        self.events: list[tuple[int, str, str, str, str]] = []
        #: event's key -> sha256
        self.sent: dict[str, str] = {}
        #: sha256 -> (group id, split), as first told
        self.places: dict[str, tuple[int, str]] = {}
        #: the caller's group -> group id
        self.groups: dict[str, int] = {}
        #: newest label id, row id, digest of each snapshot
        self.taken: list[tuple[int, int, str]] = []
        #: every message
        self.messages: list[list[labels.NewLabel]] = []
        classes.lock(self.session, MODEL, salt=SALT)

    def teardown(self):
        self.session.close()

    # ------------------------------------------------------------ what happens

    @rule(said=st.lists(SAID, min_size=1, max_size=4))
    def say(self, said):
        self.send([new_label(one) for one in said])

    @precondition(lambda self: self.messages)
    @rule(which=st.integers(0, 4))
    def deliver_again(self, which):
        self.send(self.messages[-1 - which % len(self.messages)])

    @precondition(lambda self: self.messages)
    @rule(which=st.integers(0, 2), name=st.sampled_from(NAMES))
    def correct(self, which, name):
        said = self.messages[-1 - which % len(self.messages)][0]
        self.send([replace(said, label=name, who="eve", event_key=None)])

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=3))
    def fix(self, names):
        labels.fix_classes(self.session, MODEL, names)
        if names:
            self.number(names)
            self.removed |= set(self.names) - set(names)
        self.is_fixed = True

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=2))
    def extend(self, names):
        labels.open_classes(self.session, MODEL, names)
        self.number(names)

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name):
        try:
            with self.session.begin_nested():
                labels.remove_class(self.session, MODEL, name)
        except errors.UnknownClass:
            assert name not in self.names or name in self.removed
        else:
            assert name in self.names
            assert name not in self.removed
            self.removed.add(name)

    @rule()
    def take_snapshot(self):
        last, seen = labels.last(self.session, MODEL), list(labels.current(self.session, MODEL))
        digest = hashlib.sha256(repr((last, seen, self.names, sorted(self.removed))).encode()).hexdigest()
        new = builders.new_snapshot(digest=digest, last_label_id=last, num_images=len(seen))
        row, same = (snapshots.record(self.session, new) for _ in range(2))
        assert row == same
        self.taken.append((last, row.id, digest))

    # ------------------------------------------------------------ what is so

    @invariant()
    def the_newest_label_wins_and_nothing_else_is_seen(self):
        newest = self.events[-1][0] if self.events else 0
        for until in {newest, *(last for last, _, _ in self.taken[-3:])}:
            seen = {one.sha256: (one.label, one.split) for one in labels.current(self.session, MODEL, until=until)}
            assert seen == self.standing(until)

    @invariant()
    def no_place_ever_changes(self):
        chosen = select(models.Image.sha256, models.Group.id, models.Group.split)
        found = self.session.execute(chosen.join(models.Group, models.Group.id == models.Image.group_id)).all()
        assert {sha256: (group_id, split) for sha256, group_id, split in found} == self.places
        splits: dict[int, set[str]] = {}
        for group_id, split in self.places.values():
            splits.setdefault(group_id, set()).add(split)
        assert all(len(one) == 1 for one in splits.values()), "one split for each group"

    @invariant()
    def what_nearly_repeats_shares_a_split(self):
        for picture in PICTURES:
            both = [self.places.get(builders.sha256(name)) for name in (picture, f"{picture} again")]
            splits = {place[1] for place in both if place is not None} - {"excluded"}
            assert len(splits) < 2

    @invariant()
    def classes_grow_at_the_end(self):
        rows = labels.classes(self.session, MODEL)
        assert [(row.number, row.name) for row in rows] == list(enumerate(self.names))
        assert {row.name for row in rows if row.is_removed} == self.removed
        assert labels.is_fixed(self.session, MODEL) == self.is_fixed

    @invariant()
    def snapshots_stay(self):
        for last, row_id, digest in self.taken:
            row = snapshots.by_id(self.session, row_id)
            assert (row.last_label_id, row.digest) == (last, digest)

    # ------------------------------------------------------------ the plain truth

    def send(self, new):
        self.messages.append(new)
        fresh = [one.label for one in new if one.event_key not in self.sent]
        unknown = set(fresh) - (set(self.names) - self.removed)
        try:
            with self.session.begin_nested():
                told = labels.add(self.session, MODEL, new)
        except errors.UnknownClass:
            assert self.is_fixed
            assert unknown
            return
        assert not (self.is_fixed and unknown), "a class that the fixed list lacks is refused"
        self.number(fresh)
        for one, added in zip(new, told, strict=True):
            self.note(one, added)

    def note(self, one, added):
        """Check what became of one label, and keep it."""
        if one.event_key in self.sent:
            assert (added.status, added.label_id, added.is_new_image) == ("unchanged", None, False)
            return
        assert added.is_new_image == (one.sha256 not in self.places)
        self.places.setdefault(one.sha256, (added.group_id, added.split))
        assert self.places[one.sha256] == (added.group_id, added.split)
        if added.is_new_image and one.group is not None and added.split != "excluded":
            assert self.groups.setdefault(one.group, added.group_id) == added.group_id
        status = self.status(one)
        assert added.status == status
        assert (added.label_id is None) == (status == "unchanged")
        if status == "unchanged":
            return
        assert not self.events or added.label_id > self.events[-1][0]
        self.events.append((added.label_id, one.sha256, one.label, one.who, one.source))
        if one.event_key is not None:
            self.sent[one.event_key] = one.sha256

    def status(self, one):
        mine = [event for event in self.events if event[1] == one.sha256]
        said = [name for _, _, name, who, source in mine if (who, source) == (one.who, one.source)]
        is_repeated = said[-1:] == [one.label]
        if not mine or mine[-1][2] == one.label:
            return "unchanged" if is_repeated else "added"
        return "unchanged" if is_repeated and one.event_key is None else "corrected"

    def standing(self, until):
        """Give label and split of each image by the events up to `until`, of classes and groups that take part."""
        latest = {sha256: name for label_id, sha256, name, _, _ in self.events if label_id <= until}
        return {
            sha256: (name, self.places[sha256][1])
            for sha256, name in latest.items()
            if name not in self.removed and self.places[sha256][1] != "excluded"
        }

    def number(self, names):
        self.names += [name for name in dict.fromkeys(names) if name not in self.names]
        self.removed -= set(names)


def test_labels_classes_and_splits_agree_with_the_plain_truth_in_any_order(sessions):
    run_state_machine_as_test(partial(Labelling, sessions), settings=tried(12, stateful_step_count=20))


def test_two_who_deliver_the_same_labels_leave_what_one_does(sessions):
    """The machine above is one transaction; the same message twice is two, and the second finds the first."""
    new = [new_label((image, "cat", "ada", "cli", f"key {n}", None)) for n, image in enumerate(IMAGES)]
    seen = []
    for _ in range(2):
        with sessions() as session, session.begin():
            labels.add(session, MODEL, new)
            seen.append(list(labels.current(session, MODEL)))
    assert seen[0] == seen[1]
