from dataclasses import replace

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from db import models, outcomes, registry
from db.session import reading, transaction
from tests.db import builders


@pytest.fixture
def job_id(sessions):
    """A job with ten outcomes, of which 3 and 7 are errors."""
    with transaction(sessions) as session:
        version = registry.register(session, builders.new_version())
        job_id = builders.submit(session, 10)
        recorded = [
            builders.failed(item) if item.position in (3, 7) else builders.labelled(item, version_id=version.id)
            for item in builders.items(10)
        ]
        outcomes.insert(session, job_id, 1, recorded)
    return job_id


def test_an_outcome_comes_back_as_it_was_recorded(sessions, job_id):
    with reading(sessions) as session:
        label, error = outcomes.page(session, job_id, after=1, limit=2)
    assert (label.key, label.reference, label.label, label.score) == ("key-2", "images/2.jpg", "cat", 0.75)
    assert (label.top_k, label.version, label.error) == ((("cat", 0.75), ("dog", 0.25)), "cats:1", None)
    assert (error.label, error.version, error.top_k) == (None, None, ())
    assert error.error == outcomes.ItemFailure(stage="decode", kind="ImageUnreadable", message="not an image")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        pytest.param({"limit": 3}, [0, 1, 2], id="from the start"),
        pytest.param({"limit": 3, "after": 7}, [8, 9], id="past a position"),
        pytest.param({"limit": 9, "errors": True}, [3, 7], id="errors alone"),
        pytest.param({"limit": 4, "errors": False, "after": 1}, [2, 4, 5, 6], id="labels alone"),
    ],
)
def test_a_page_is_in_order_and_holds_what_was_asked_for(sessions, job_id, how, expected):
    with reading(sessions) as session:
        assert [row.position for row in outcomes.page(session, job_id, **how)] == expected


def test_a_stream_crosses_pages_without_losing_or_repeating(sessions, job_id, monkeypatch):
    monkeypatch.setattr(outcomes, "PAGE", 3)  # a real page would need thousands of rows
    with reading(sessions) as session:
        assert [row.position for row in outcomes.stream(session, job_id)] == list(range(10))
        assert [row.position for row in outcomes.stream(session, job_id, errors=True)] == [3, 7]


def test_a_second_outcome_for_an_item_is_refused(sessions, job_id):
    with pytest.raises(IntegrityError), transaction(sessions) as session:
        outcomes.insert(session, job_id, 2, [builders.failed(builders.items(1)[0])])


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"label": None}, id="neither label nor error"),
        pytest.param({"error": outcomes.ItemFailure(stage="decode", kind="bad", message="")}, id="both"),
    ],
)
def test_an_outcome_is_a_label_or_an_error_never_both(sessions, columns):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 1)
    with pytest.raises(IntegrityError), transaction(sessions) as session:
        outcomes.insert(session, job_id, 1, [builders.labelled(builders.items(1)[0], **columns)])


def test_any_error_message_can_be_stored(sessions):
    with transaction(sessions) as session:
        job_id = builders.submit(session, 1)
        message = "no such file: nul\0 half\udcff " + "x" * 1000
        outcomes.insert(session, job_id, 1, [builders.failed(builders.items(1)[0], message)])
        (row,) = outcomes.page(session, job_id, limit=1)
    assert row.error.message.startswith("no such file: nul\ufffd half? xxx")
    assert len(row.error.message) == outcomes.MAX_MESSAGE


def test_what_a_version_said_of_late_is_read_in_either_order(sessions, job_id):
    with transaction(sessions) as session:
        other = registry.register(session, builders.new_version())
        items = builders.items(2, first=10)
        outcomes.insert(session, job_id, 2, [builders.labelled(item, version_id=other.id) for item in items])
        for position in range(12):
            moved = update(models.Outcome).where(models.Outcome.position == position)
            session.execute(moved.values(recorded_at_s=float(position)))
        (version,) = [one for one in registry.versions(session) if one.number == 1]

        def positions(after_s, limit, **how):
            read = outcomes.recorded_since(session, builders.MODEL, version.id, after_s, limit, **how)
            return [one.position for one in read]

        # 3 and 7 are errors, which no version is named for here
        assert positions(1.0, 3) == [2, 4, 5]
        assert positions(1.0, 3, is_newest_first=True) == [9, 8, 6]
        assert positions(9.0, 3) == []
        assert outcomes.recorded_since(session, "dogs", version.id, 0.0, 9) == []


def test_errors_of_a_version_are_read_apart(sessions, job_id):
    with transaction(sessions) as session:
        (version,) = registry.versions(session)
        failed = [replace(builders.failed(item), version_id=version.id) for item in builders.items(2, first=10)]
        outcomes.insert(session, job_id, 2, failed)
        read = [
            len(outcomes.recorded_since(session, builders.MODEL, version.id, 0.0, 99, errors=errors))
            for errors in (None, True, False)
        ]
    assert read == [10, 2, 8]
