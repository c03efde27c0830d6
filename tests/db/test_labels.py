from dataclasses import replace

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError

from db import classes, errors, labels, models, standings
from db import session as database
from db.groups import FLOOR_NUM, FLOOR_TEST
from db.labels import ClassRow, Conflict, New
from db.session import reading, transaction
from db.splits import share, split_of
from tests.db import builders
from tests.db.builders import MODEL, again, label, sha256


@pytest.fixture
def sessions(sessions):
    """Sessions on a ledger whose splits are the same in every test."""
    with transaction(sessions) as session:
        session.add(models.LabelSet(model=MODEL, salt="5f"))
    return sessions


def names_in(split, num=1):
    """Names whose images, if they are like no other, fall into a split."""
    drawn = (f"{n}" for n in range(10_000) if split_of(share(f"image:{sha256(n)}", "5f")) == split)
    return [next(drawn) for _ in range(num)]


def add(session, *new):
    return labels.add(session, MODEL, new)


def current(session, **how):
    return [(one.reference, one.label) for one in labels.current(session, MODEL, **how)]


def test_a_label_is_read_back_with_its_split(sessions):
    (name,) = names_in("val")
    with transaction(sessions) as session:
        (added,) = add(session, label(name, label="dog"))
        assert (added.split, added.status, added.is_new_image, added.is_near_duplicate) == ("val", "added", True, False)
        (one,) = labels.current(session, MODEL)
    assert (one.sha256, one.reference, one.label) == (sha256(name), f"images/{name}.jpg", "dog")
    assert (one.split, one.label_id) == ("val", added.label_id)


def test_classes_are_numbered_in_the_order_they_come(sessions):
    with transaction(sessions) as session:
        add(session, label(1, label="dog"), label(2, label="cat"), label(3, label="dog"))
        add(session, label(4, label="ant"))
        labels.add(session, "other", [label(5, label="bee")])
        assert labels.classes(session, MODEL) == [
            ClassRow(number=0, name="dog", is_removed=False),
            ClassRow(number=1, name="cat", is_removed=False),
            ClassRow(number=2, name="ant", is_removed=False),
        ]
        assert labels.known(session, MODEL, [sha256(1), sha256(5)]) == {sha256(1)}


@pytest.mark.parametrize("together", [True, False], ids=["in one call", "in two calls"])
@pytest.mark.parametrize(
    ("change", "status", "latest"),
    [
        pytest.param({}, "unchanged", "cat", id="the same again"),
        pytest.param({"label": "dog"}, "corrected", "dog", id="another class"),
        pytest.param({"who": "bob"}, "added", "cat", id="somebody agrees"),
        pytest.param({"source": "label_studio"}, "added", "cat", id="another way"),
    ],
)
def test_a_second_label_of_an_image(sessions, together, change, status, latest):
    with transaction(sessions) as session:
        first, second = label(1), replace(label(1), **change)
        if together:
            before, after = add(session, first, second)
        else:
            (before,), (after,) = add(session, first), add(session, second)
        assert (after.status, after.is_new_image, after.image_id) == (status, False, before.image_id)
        assert (after.label_id is None) == (status == "unchanged")
        assert current(session) == [("images/1.jpg", latest)]
        assert labels.stats(session, MODEL).num_events == 1 + (status != "unchanged")


@pytest.mark.parametrize("together", [True, False], ids=["in one call", "in two calls"])
@pytest.mark.parametrize(
    ("again", "status", "latest"),
    [
        pytest.param({}, "unchanged", "dog", id="a folder that is imported again"),
        pytest.param({"event_key": "annotation 5"}, "corrected", "cat", id="an event of its own"),
        pytest.param({"source": "label_studio"}, "corrected", "cat", id="another way"),
        pytest.param({"who": "eve"}, "corrected", "cat", id="somebody else"),
    ],
)
def test_what_was_said_before_a_correction_does_not_undo_it_unless_it_is_said_anew(
    sessions, together, again, status, latest
):
    before, after = [label(1), label(1, label="dog", who="bob")], label(1, **again)
    with transaction(sessions) as session:
        told = add(session, *before, after) if together else [*add(session, *before), *add(session, after)]
        assert (told[-1].status, current(session)) == (status, [("images/1.jpg", latest)])


@pytest.mark.parametrize("together", [True, False], ids=["in one call", "in two calls"])
def test_an_event_that_is_sent_twice_counts_once_whatever_it_says(sessions, together):
    with transaction(sessions) as session:
        first = label(1, event_key="annotation 5")
        second = label(2, event_key="annotation 5", label="dog")
        told = add(session, first, second) if together else [*add(session, first), *add(session, second)]
        assert (told[1].status, told[1].label_id, told[1].image_id) == ("unchanged", None, told[0].image_id)
        assert current(session) == [("images/1.jpg", "cat")]
        labels.add(session, "other", [second])
        assert labels.last(session, "other") > labels.last(session, MODEL)


def test_a_near_duplicate_shares_the_group_and_split(sessions):
    (test,) = names_in("test")
    train = names_in("train", 2)
    original = label(test)
    with transaction(sessions) as session:
        first, second = add(session, original, again(original, train[0], bits=0b1111))
        (third,) = add(session, again(original, train[1], bits=0b1111 << 60))
        other_picture = again(original, "other", thumbnail=label("other").thumbnail)
        (fourth,) = add(session, other_picture)
        assert {second.group_id, third.group_id} == {first.group_id} != {fourth.group_id}
        assert (second.split, third.split) == ("test", "test")
        assert [one.is_near_duplicate for one in (first, second, third, fourth)] == [False, True, True, False]
        stats = labels.stats(session, MODEL)
        assert (stats.num_images, stats.num_groups, stats.num_near_duplicates) == (4, 2, 2)


def test_what_ties_two_splits_together_is_kept_out_of_both(sessions):
    left = label(*names_in("train"))
    right = again(left, *names_in("test"), bits=0b111111)
    with transaction(sessions) as session:
        middle = again(left, "middle", bits=0b111)
        assert [one.split for one in add(session, left, right)] == ["train", "test"]
        assert add(session, middle)[0].split == "excluded"
        assert {one.sha256 for one in labels.current(session, MODEL)} == {left.sha256, right.sha256}
        assert labels.counts(session, MODEL)[0].num == 2
        assert labels.counts(session, MODEL)[0].excluded == 1


def test_a_named_group_stays_together(sessions):
    with transaction(sessions) as session:
        added = add(session, *(label(n, group="patient 3") for n in range(6)))
        added += add(session, *(label(n, group="patient 3") for n in range(6, 12)))
        assert len({(one.group_id, one.split) for one in added}) == 1


def test_a_group_is_not_changed_by_what_is_said_of_the_image_later(sessions):
    with transaction(sessions) as session:
        (first,) = add(session, label(1))
        (second,) = add(session, label(1, label="dog", group="patient 3"))
        assert (second.group_id, second.split) == (first.group_id, first.split)


def test_a_class_with_too_few_that_judge_gets_them_next(sessions):
    train = names_in("train", 40)
    with transaction(sessions) as session:
        add(session, *(label(name) for name in train[:FLOOR_NUM]), label("dog", label="dog"))
        later = add(session, *(label(name) for name in train[FLOOR_NUM : FLOOR_NUM + 3]))
        later += add(session, *(label(name) for name in train[FLOOR_NUM + 3 :]))
        assert [one.split for one in later] == ["test"] * FLOOR_TEST + ["train"] * (len(later) - FLOOR_TEST)
        assert labels.counts(session, MODEL)[0].test == FLOOR_TEST


def test_a_fixed_list_refuses_other_classes_and_writes_nothing(sessions):
    with transaction(sessions) as session:
        labels.fix_classes(session, MODEL, ["cat", "dog"])
        add(session, label(1, label="dog"))
        with pytest.raises(errors.UnknownClass, match=r"no class 'horse'; it has: cat, dog\."):
            add(session, label(2), label(3, label="horse"))
        assert current(session) == [("images/1.jpg", "dog")]


def test_fixing_a_list_removes_what_is_not_named_and_keeps_every_number(sessions):
    with transaction(sessions) as session:
        add(session, label(1, label="dgo"), label(2, label="cat"))
        labels.fix_classes(session, MODEL, ["dog", "cat"])
        assert [(one.name, one.is_removed) for one in labels.classes(session, MODEL)] == [
            ("dgo", True),
            ("cat", False),
            ("dog", False),
        ]
        assert [one.number for one in labels.classes(session, MODEL, removed=False)] == [1, 2]
        with pytest.raises(errors.UnknownClass):
            add(session, label(3, label="dgo"))


def test_a_list_can_be_closed_as_it_stands(sessions):
    with transaction(sessions) as session:
        add(session, label(1, label="dog"), label(2, label="cat"))
        labels.fix_classes(session, MODEL, [])
        assert [one.is_removed for one in labels.classes(session, MODEL)] == [False, False]
        with pytest.raises(errors.UnknownClass):
            add(session, label(3, label="horse"))


def test_a_removed_class_is_masked_and_comes_back_with_its_number(sessions):
    with transaction(sessions) as session:
        add(session, label(1, label="dog"), label(2, label="cat"))
        labels.remove_class(session, MODEL, "dog")
        assert current(session) == [("images/2.jpg", "cat")]
        assert labels.counts(session, MODEL)[0].is_removed
        for unknown in ("dog", "horse"):
            with pytest.raises(errors.UnknownClass, match=unknown):
                labels.remove_class(session, MODEL, unknown)
        add(session, label(3, label="ant"), label(4, label="dog"))
        assert [(one.number, one.name) for one in labels.classes(session, MODEL, removed=False)] == [
            (0, "dog"),
            (1, "cat"),
            (2, "ant"),
        ]
        assert len(current(session)) == 4


def test_current_is_cut_where_the_reader_says_and_ordered_by_content(sessions, monkeypatch):
    monkeypatch.setattr(labels, "PAGE", 3)  # a real page would need thousands of rows
    with transaction(sessions) as session:
        add(session, *(label(n) for n in range(10)))
        before = labels.last(session, MODEL)
        add(session, label(0, label="dog"), label(10))
        assert [reference for reference, _ in current(session)] == sorted(
            (f"images/{n}.jpg" for n in range(11)), key=lambda reference: sha256(reference[7:-4])
        )
        assert ("images/0.jpg", "cat") in current(session, until=before)
        assert ("images/0.jpg", "dog") in current(session)
        assert len(current(session, until=before)) == 10
        assert labels.last(session, "unheard of") == 0


def test_a_stream_does_not_see_what_is_added_meanwhile(sessions, monkeypatch):
    monkeypatch.setattr(labels, "PAGE", 3)
    with transaction(sessions) as session:
        add(session, *(label(n) for n in range(10)))
        stream = labels.current(session, MODEL)
        first = next(stream)
        add(session, *(label(n, label="dog") for n in range(20)))
        assert {one.label for one in (first, *stream)} == {"cat"}


def test_new_labels_are_counted_by_image_and_class(sessions):
    with transaction(sessions) as session:
        add(session, *(label(n) for n in range(4)))
        before = labels.last(session, MODEL)
        assert labels.new_since(session, MODEL, before) == New(num=0, per_class={}, new_classes=())
        add(session, label(0, who="bob"))  # agrees
        add(session, label(1, label="dog"), label(1, label="ant"))  # corrected twice
        add(session, label(2, label="dog"), label(2))  # and back
        add(session, label(4), label(5, label="ant"))
        assert labels.new_since(session, MODEL, before) == New(
            num=3, per_class={"cat": 1, "ant": 2}, new_classes=("dog", "ant")
        )
        assert labels.new_since(session, MODEL, 0).num == 6
        labels.remove_class(session, MODEL, "ant")
        assert labels.new_since(session, MODEL, before) == New(num=1, per_class={"cat": 1}, new_classes=("dog",))


def test_stats_count_images_by_class_and_split(sessions):
    train, test = names_in("train", 3), names_in("test", 2)
    with transaction(sessions) as session:
        add(session, *(label(name) for name in train), *(label(name, label="dog") for name in test))
        add(session, label(train[0], label="dog"))
        stats = labels.stats(session, MODEL)
        empty = labels.stats(session, "unheard of")
    told = [(one.name, one.train, one.val, one.test, one.num) for one in stats.per_class]
    assert told == [("cat", 2, 0, 0, 2), ("dog", 1, 0, 2, 3)]
    assert (stats.num_images, stats.num_events, stats.num_groups, stats.conflicts) == (5, 6, 5, ())
    assert (empty.num_images, empty.per_class) == (0, ())


def test_people_who_disagree_are_a_conflict_until_they_agree(sessions):
    with transaction(sessions) as session:
        add(session, label(1), label(2), label(1, label="dog", who="bob"))
        add(session, label(2, label="dog"))  # changed her own mind
        assert labels.stats(session, MODEL).conflicts == (
            Conflict(reference="images/1.jpg", labels=("cat", "dog"), who=("ada", "bob")),
        )
        add(session, label(1, label="dog"))
        assert labels.stats(session, MODEL).conflicts == ()


def test_near_duplicates_with_different_labels_are_a_conflict(sessions):
    original = label(1)
    with transaction(sessions) as session:
        add(session, original, again(original, 2, label="dog", who="bob"), again(original, 3))
        assert labels.stats(session, MODEL).conflicts == (
            Conflict(
                reference="images/2.jpg",
                labels=("cat", "dog"),
                who=("ada", "bob"),
                near_reference="images/1.jpg",
            ),
        )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE groups SET split = 'train'",
        "UPDATE groups SET split = split",
        "UPDATE groups SET key = 'image:0'",
        "DELETE FROM groups",
        "UPDATE images SET group_id = 1",
        "DELETE FROM images",
        "UPDATE labels SET class_number = 0",
        "DELETE FROM labels",
    ],
)
def test_the_database_refuses_to_change_what_was_written_once(sessions, statement):
    with transaction(sessions) as session:
        add(session, label(1), label(2, label="dog"))
    with pytest.raises(DBAPIError, match="are written once"), transaction(sessions) as session:
        session.execute(text(statement))
    with reading(sessions) as session:
        assert len(current(session)) == 2


def test_postgresql_refuses_to_empty_them_too(sessions):
    if database.engine_of(sessions).dialect.name == "sqlite":
        return  # it has no TRUNCATE
    with pytest.raises(DBAPIError, match="are written once"), transaction(sessions) as session:
        session.execute(text("TRUNCATE groups CASCADE"))


def test_more_labels_than_one_chunk_are_the_same_as_one_at_a_time(sessions, monkeypatch):
    originals = [label(n) for n in range(8)]
    copies = [again(one, f"copy of {n}", bits=1 << n) for n, one in enumerate(originals)]
    monkeypatch.setattr("db.arrivals.CHUNK", 3)  # a real chunk would need thousands of labels
    monkeypatch.setattr(standings, "CHUNK", 2)
    with transaction(sessions) as session:
        added = add(session, *originals, *copies)
        assert [one.split for one in added[:8]] == [one.split for one in added[8:]]
        assert labels.known(session, MODEL, [one.sha256 for one in (*originals, label("unheard of"))]) == {
            one.sha256 for one in originals
        }


def test_a_thousand_labels_take_a_few_statements(sessions):
    statements = []
    engine = database.engine_of(sessions)
    event.listen(engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: statements.append(statement))
    with transaction(sessions) as session:
        add(session, *(label(n, label=f"class {n % 4}", event_key=f"{n}") for n in range(1000)))
        assert session.scalars(select(models.Label.id)).all() == list(range(1, 1001))
    assert len(statements) < 50


def test_each_model_has_a_salt_of_its_own(sessions):
    with transaction(sessions) as session:
        salts = {classes.lock(session, model).salt for model in ("a", "b", "c", "a")}
    assert len(salts) == 3
    assert all(len(salt) == 32 for salt in salts)


def test_the_same_image_may_be_split_differently_for_another_model(sessions):
    with transaction(sessions) as session:
        mine = [one.split for one in labels.add(session, MODEL, [builders.label(n) for n in range(60)])]
        theirs = [one.split for one in labels.add(session, "other", [builders.label(n) for n in range(60)])]
    assert mine != theirs
