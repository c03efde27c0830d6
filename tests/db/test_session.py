import time

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from db import errors, workers
from db import session as database
from db.models import Part, Worker
from db.session import reading, transaction
from tests.db.test_workers import ADA


def num_workers(sessions):
    with reading(sessions) as session:
        return session.scalar(select(func.count()).select_from(Worker))


def test_a_transaction_commits_what_it_did(sessions):
    with transaction(sessions) as session:
        workers.beat(session, ADA)
    assert num_workers(sessions) == 1


def test_a_transaction_that_raises_leaves_nothing(sessions):
    with pytest.raises(RuntimeError), transaction(sessions) as session:  # noqa: PT012 - the rows come first
        workers.beat(session, ADA)
        raise RuntimeError
    assert num_workers(sessions) == 0


def test_a_reader_neither_waits_for_a_writer_nor_sees_its_half(sessions):
    with transaction(sessions) as session:
        workers.beat(session, ADA)
        began_s = time.monotonic()
        assert num_workers(sessions) == 0
        assert time.monotonic() - began_s < 5


def test_the_databases_clock_runs_in_epoch_seconds(sessions):
    before_s = time.time()
    with reading(sessions) as session:
        now_s = session.scalar(select(database.now_s()))
    assert before_s - 1 < now_s < time.time() + 1


def test_sqlite_keeps_every_commit_and_every_foreign_key(tmp_path):
    sessions = database.connect(f"sqlite:///{tmp_path / 'ledger.db'}")
    with reading(sessions) as session:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        told = [session.scalar(text(f"PRAGMA {pragma}")) for pragma in pragmas]
    database.engine_of(sessions).dispose()
    assert told == ["wal", 2, 1, 30_000]


@pytest.mark.parametrize(
    ("url", "where"),
    [
        pytest.param("sqlite:////no/such/folder/ledger.db", "/no/such/folder/ledger.db", id="sqlite"),
        pytest.param("postgresql+psycopg://ada:hunter2@127.0.0.1:1/mill", "127.0.0.1/mill", id="postgresql"),
    ],
)
def test_a_ledger_that_is_away_is_named_without_its_password(url, where):
    with pytest.raises(errors.LedgerUnreachable) as caught, transaction(database.connect(url)) as session:
        session.execute(text("SELECT 1"))
    assert str(caught.value).startswith(f"Cannot reach the ledger at {where}: ")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda session: workers.beat(session, ADA), id="a statement"),
        pytest.param(lambda session: database.insert_rows(session, Part, ("first_position",), [(0,)]), id="many rows"),
    ],
)
def test_a_connection_lost_on_the_way_is_a_ledger_away(postgres, postgres_template, write):
    postgres.copy(postgres_template, "severed")
    sessions = database.connect(postgres.url("severed"))
    with pytest.raises(errors.LedgerUnreachable), transaction(sessions) as session:  # noqa: PT012
        workers.beat(session, ADA)
        postgres.execute("DROP DATABASE severed WITH (FORCE)")
        write(session)


def test_a_wrong_statement_is_not_a_ledger_away(sessions):
    with pytest.raises(DBAPIError), transaction(sessions) as session:
        session.execute(text("SELECT nonsense FROM nowhere"))
