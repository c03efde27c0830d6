import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from db import errors, jobs, ledger, shards
from db.models import Job, Shard
from db.session import reading, transaction
from tests.db import builders


def shard_sizes(session, job_id):
    return list(session.scalars(select(Shard.num_items).where(Shard.job_id == job_id).order_by(Shard.id)))


def test_a_job_in_one_part_is_accepted_and_cut_into_shards(sessions):
    with transaction(sessions) as session:
        receipt = builders.receive(session, builders.job(10), shard_size=4)
        assert (receipt.state, receipt.num_received, receipt.newly_accepted) == ("accepted", 10, True)
        assert shard_sizes(session, receipt.job_id) == [4, 4, 2]
        held = session.scalars(select(Shard).where(Shard.num_items == 2)).one()
        assert shards.items_of(held) == tuple(builders.items(2, first=8))


def test_a_job_is_accepted_by_the_part_that_completes_it_in_any_order(sessions):
    new = builders.job(10)
    with transaction(sessions) as session:
        told = [builders.receive(session, new, first, num) for first, num in ((6, 4), (0, 3), (3, 3))]
    assert [receipt.num_received for receipt in told] == [4, 7, 10]
    assert [receipt.newly_accepted for receipt in told] == [False, False, True]


def test_a_part_sent_again_changes_nothing(sessions):
    new = builders.job(10)
    for expected in (True, False):
        with transaction(sessions) as session:
            receipt = builders.receive(session, new)
            assert receipt.newly_accepted is expected
            assert receipt.num_received == 10
            assert shard_sizes(session, new.id) == [4, 4, 2]


def test_the_same_key_gives_the_first_job_to_a_second_id(sessions):
    first, second = (builders.job(10, idempotency_key="night run") for _ in range(2))
    with transaction(sessions) as session:
        builders.receive(session, first, 0, 5)
        assert builders.receive(session, second, 0, 5).job_id == first.id
        completed = builders.receive(session, second, 5)
    assert (completed.job_id, completed.state) == (first.id, "accepted")


@pytest.mark.parametrize(
    ("changed", "digest"),
    [
        pytest.param({"model": "dogs"}, "0", id="another model"),
        pytest.param({"top_k": 1}, "0", id="another top_k"),
        pytest.param({"priority": "interactive"}, "0", id="another priority"),
        pytest.param({"num_items": 11}, "0", id="another size"),
        pytest.param({}, "other", id="other items"),
    ],
)
@pytest.mark.parametrize("same_id", [True, False], ids=["same id", "another id"])
def test_a_different_request_under_a_used_key_is_refused(sessions, changed, digest, same_id):
    first = builders.job(10, idempotency_key="night run")
    with transaction(sessions) as session:
        builders.receive(session, first, 0, 5)
    again = builders.job(**({"num_items": 10, "idempotency_key": "night run"} | changed))
    if same_id:
        again = builders.job(**({"num_items": 10, "idempotency_key": "night run", "id": first.id} | changed))
    with pytest.raises(errors.IdempotencyConflict), transaction(sessions) as session:
        builders.receive(session, again, 0, 5, digest=digest)


def test_an_id_that_belongs_to_one_job_with_a_key_of_another_is_refused(sessions):
    with transaction(sessions) as session:
        keyed, other = builders.job(idempotency_key="night run"), builders.job()
        builders.receive(session, keyed)
        builders.receive(session, other)
        with pytest.raises(errors.IdempotencyConflict):
            builders.receive(session, builders.job(id=other.id, idempotency_key="night run"))


@pytest.mark.parametrize(
    ("first", "num"),
    [
        pytest.param(0, 0, id="no items"),
        pytest.param(-1, 4, id="before the first"),
        pytest.param(8, 3, id="past the last"),
        pytest.param(2, 4, id="overlapping a received part"),
        pytest.param(0, 3, id="a shorter piece of a received part"),
        pytest.param(0, 10, id="around a received part"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(sessions, first, num):
    new = builders.job(10)
    with transaction(sessions) as session:
        builders.receive(session, new, 0, 4)
    with pytest.raises(errors.PartInvalid), transaction(sessions) as session:
        builders.receive(session, new, first, num)


@pytest.mark.parametrize("reference", ["nul\0.jpg", "half\ud800.jpg"], ids=["NUL", "lone surrogate"])
def test_a_reference_no_database_can_store_is_refused_at_once(sessions, reference):
    bad = [shards.Item(position=0, key=None, reference=reference)]
    with transaction(sessions) as session, pytest.raises(errors.PartInvalid):
        ledger.receive(session, builders.job(1), bad, first_position=0, digest="", shard_size=4)


def test_items_out_of_order_are_refused(sessions):
    swapped = builders.items(2)[::-1]
    with transaction(sessions) as session, pytest.raises(errors.PartInvalid):
        ledger.receive(session, builders.job(2), swapped, first_position=0, digest="", shard_size=4)


def test_keys_and_references_keep_every_letter(sessions):
    item = shards.Item(position=0, key="ключ", reference="zażółć/猫 \"'\\%.jpg")
    with transaction(sessions) as session:
        ledger.receive(session, builders.job(1), [item], first_position=0, digest="", shard_size=4)
    with reading(sessions) as session:
        assert shards.items_of(session.scalars(select(Shard)).one()) == (item,)


def test_a_cancelled_job_takes_no_further_parts_but_answers_for_the_old_ones(sessions):
    new = builders.job(10)
    with transaction(sessions) as session:
        builders.receive(session, new, 0, 5)
        jobs.cancel(session, new.id)
        assert builders.receive(session, new, 0, 5).state == "cancelled"
        with pytest.raises(errors.JobFinished):
            builders.receive(session, new, 5)


def test_the_header_of_a_known_job_is_found_by_id_and_by_key(sessions):
    new = builders.job(10, idempotency_key="night run", caller="web")
    with transaction(sessions) as session:
        assert ledger.known(session, new.id, "night run") is None
        builders.receive(session, new)
        assert ledger.known(session, new.id, None) == new
        assert ledger.known(session, uuid.uuid4(), "night run") == new


@pytest.mark.parametrize("same_id", [True, False], ids=["same id", "another id each"])
def test_ten_deliveries_at_once_make_one_job(sessions, same_id):
    new = builders.job(10, idempotency_key="night run")
    start = threading.Barrier(10)

    def deliver(_):
        mine = new if same_id else builders.job(10, idempotency_key="night run")
        start.wait(timeout=30)
        with transaction(sessions) as session:
            return builders.receive(session, mine)

    with ThreadPoolExecutor(10) as pool:
        receipts = list(pool.map(deliver, range(10)))
    assert len({receipt.job_id for receipt in receipts}) == 1
    assert sum(receipt.newly_accepted for receipt in receipts) == 1
    with reading(sessions) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1
        assert shard_sizes(session, receipts[0].job_id) == [4, 4, 2]
