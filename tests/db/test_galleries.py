import random
import uuid

import pytest

from db import galleries, outcomes, registry
from db.galleries import Choice, Place
from db.session import reading, transaction
from tests.db import builders

NUM = 120


def place(one: outcomes.Recorded) -> Place:
    return Place(position=one.position, score=one.score)


@pytest.fixture
def job_id(sessions) -> uuid.UUID:
    """A job whose scores come in no order, some of them equal, and every tenth item is an error."""
    random.seed(3)
    with transaction(sessions) as session:
        version = registry.register(session, builders.new_version())
        found = builders.submit(session, NUM)
        rows = [row(n, version.id) for n in range(NUM)]
        outcomes.insert(session, found, 1, rows)
        outcomes.insert(session, builders.submit(session, 2), 2, [row(n, version.id) for n in range(2)])
    return found


def row(position: int, version_id: int) -> outcomes.Outcome:
    item = builders.items(1, position)[0]
    if position % 10 == 0:
        return builders.failed(item, "<b>not an image</b>")
    score = round(random.random(), 1)  # a digit, so that scores are equal
    return builders.labelled(item, label=random.choice(["cat", "dog", "hen"]), score=score, version_id=version_id)


def walked(sessions, job_id, choice, *, limit=7) -> list[outcomes.Recorded]:
    seen, after = [], None
    while True:
        with reading(sessions) as session:
            page = galleries.page(session, job_id, choice, limit=limit, after=after)
        seen += page.shown
        if page.is_last:
            return seen
        after = place(page.shown[-1])


CHOICES = {
    "by position": Choice(),
    "the surest first": Choice(order="surest"),
    "the least sure first": Choice(order="doubtful"),
    "one label": Choice(label="dog", order="surest"),
    "errors": Choice(only="errors"),
    "a stage": Choice(error_stage="decode"),
    "labels": Choice(only="labels"),
    "between two scores": Choice(lowest=0.2, highest=0.5, order="doubtful"),
}


def sorted_by(choice: Choice, everything: list[outcomes.Recorded]) -> list[int]:
    def fits(one: outcomes.Recorded) -> bool:
        is_error = one.error is not None
        if choice.only == "errors" or choice.error_stage:
            return is_error
        if choice.only == "labels" or choice.order != "position" or choice.label or choice.lowest is not None:
            lowest, highest = choice.lowest or 0.0, choice.highest or 1.0
            return not is_error and choice.label in (None, one.label) and lowest <= one.score <= highest
        return True

    sign = {"position": 0.0, "surest": -1.0, "doubtful": 1.0}[choice.order]
    kept = [one for one in everything if fits(one)]
    return [one.position for one in sorted(kept, key=lambda one: (sign * (one.score or 0.0), one.position))]


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_pages_follow_each_other_in_the_order_asked_for_and_lose_or_repeat_nothing(sessions, job_id, choice):
    with reading(sessions) as session:
        everything = outcomes.page(session, job_id, limit=NUM)
    assert [one.position for one in walked(sessions, job_id, choice)] == sorted_by(choice, everything)


@pytest.mark.parametrize("order", ["position", "surest", "doubtful"])
def test_going_back_shows_the_page_one_came_from(sessions, job_id, order):
    choice = Choice(order=order)
    with reading(sessions) as session:
        first = galleries.page(session, job_id, choice, limit=10)
        second = galleries.page(session, job_id, choice, limit=10, after=place(first.shown[-1]))
        third = galleries.page(session, job_id, choice, limit=10, after=place(second.shown[-1]))
        back = galleries.page(session, job_id, choice, limit=10, before=place(third.shown[0]))
        start = galleries.page(session, job_id, choice, limit=10, before=place(second.shown[0]))
    assert (back.shown, back.is_first) == (second.shown, False)
    assert (start.shown, start.is_first) == (first.shown, True)


def test_a_tally_counts_every_outcome_once(sessions, job_id):
    with reading(sessions) as session:
        tally = galleries.tally(session, job_id)
    assert sum(tally.labels.values()) == NUM - NUM // 10
    assert tally.errors == {("decode", "ImageUnreadable"): NUM // 10}


def test_only_an_item_with_an_outcome_is_found(sessions, job_id):
    with reading(sessions) as session:
        assert galleries.one(session, job_id, 3).position == 3
        assert galleries.one(session, job_id, NUM) is None
        assert galleries.one(session, uuid.uuid4(), 3) is None
