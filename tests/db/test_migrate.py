import json
import uuid
from operator import itemgetter

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import OperationalError

from db import errors, migrate, models, outcomes, registry
from db import session as database
from db.session import transaction
from tests.db import builders
from tests.db.test_races import PROCESSES


@pytest.fixture
def empty(empty_database_url):
    """Sessions on a database without a table."""
    sessions = database.connect(empty_database_url)
    yield sessions
    database.engine_of(sessions).dispose()


def described(engine):
    """Everything a migration and a model can disagree about."""
    inspector = inspect(engine)
    facts = {
        table: {
            "columns": inspector.get_columns(table),
            "primary key": inspector.get_pk_constraint(table),
            "indexes": sorted(inspector.get_indexes(table), key=itemgetter("name")),
            "unique": sorted(inspector.get_unique_constraints(table), key=itemgetter("name")),
            "foreign keys": sorted(inspector.get_foreign_keys(table), key=itemgetter("name")),
            "checks": sorted(inspector.get_check_constraints(table), key=itemgetter("name")),
            "options": inspector.get_table_options(table),
        }
        for table in models.metadata.tables
    }
    return json.loads(json.dumps(facts, default=str))


def test_a_migrated_database_is_at_the_head_and_upgrading_again_changes_nothing(empty, empty_database_url):
    for _ in range(2):
        migrate.upgrade(empty_database_url)
        migrate.check(empty)


def test_alembic_finds_nothing_left_to_migrate(sessions):
    with database.engine_of(sessions).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, models.metadata) == []


def test_the_migrations_and_the_models_agree_on_every_constraint(empty, empty_database_url):
    engine = database.engine_of(empty)
    migrate.upgrade(empty_database_url)
    migrated = described(engine)
    models.metadata.drop_all(engine)
    models.metadata.create_all(engine)
    assert described(engine) == migrated


def upgrade_to(sessions, revision):
    with database.engine_of(sessions).begin() as connection:
        migrate.upgrade_within(connection, revision)


def test_what_the_first_release_wrote_is_there_after_the_second(empty, empty_database_url):
    upgrade_to(empty, "0001")
    with pytest.raises(errors.SchemaOld):
        migrate.check(empty)
    with transaction(empty) as session:
        version = registry.register(session, builders.new_version())
        session.execute(text("INSERT INTO serving (model, version_id, epoch) VALUES ('cats', 1, 1)"))
        columns = "model, version_id, epoch, kind, who, reason, at_s"
        promoted = f"INSERT INTO promotions ({columns}) VALUES ('cats', 1, 1, 'promote', 'ada', 'first', 5.0)"  # noqa: S608 - no input
        session.execute(text(promoted))
        job_id = uuid.uuid4()
        columns = "id, model, priority, state, top_k, num_items, num_received, num_succeeded, num_failed"
        job = f"INSERT INTO jobs ({columns}, num_open_shards, created_at_s) VALUES (:job_id, 'cats', 'bulk', 'succeeded', 5, 1, 1, 1, 0, 0, 4.0)"  # noqa: S608, E501 - no input
        session.execute(text(job), {"job_id": database.spelled(session, job_id)})
        columns = "job_id, position, shard_id, reference, label, score, version_id, recorded_at_s"
        recorded = f"INSERT INTO outcomes ({columns}) VALUES (:job_id, 0, 1, 'a.jpg', 'cat', 0.5, 1, 5.0)"  # noqa: S608 - no input
        session.execute(text(recorded), {"job_id": database.spelled(session, job_id)})
    migrate.upgrade(empty_database_url)
    with transaction(empty) as session:
        (first,) = registry.history(session, "cats")
        assert (first.version, first.who, first.at_s, first.is_forced, first.gate_id) == (
            "cats:1",
            "ada",
            5.0,
            False,
            None,
        )
        again = {"who": "ada", "reason": "again", "is_forced": True}
        assert registry.promote(session, "cats", version.id, seen_epoch=1, **again) == 2
        assert len(outcomes.recorded_since(session, "cats", version.id, 0.0, 9)) == 1


def test_an_empty_database_is_too_old(empty):
    with pytest.raises(errors.SchemaOld, match="imagemill db upgrade"):
        migrate.check(empty)


def test_a_database_of_a_later_release_is_too_new(sessions):
    with transaction(sessions) as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'from the future'"))
    with pytest.raises(errors.SchemaNew):
        migrate.check(sessions)


def test_a_database_that_is_away_is_not_an_old_one(tmp_path):
    away = f"sqlite:///{tmp_path / 'missing' / 'ledger.db'}"
    with pytest.raises(errors.LedgerUnreachable):
        migrate.check(database.connect(away))
    with pytest.raises(errors.LedgerUnreachable):
        migrate.upgrade(away)


def test_four_processes_may_upgrade_at_once(empty, empty_database_url):
    migrators = [PROCESSES.Process(target=migrate.upgrade, args=(empty_database_url,)) for _ in range(4)]
    for migrator in migrators:
        migrator.start()
    for migrator in migrators:
        migrator.join(timeout=60)
    assert [migrator.exitcode for migrator in migrators] == [0, 0, 0, 0]
    migrate.check(empty)


def test_a_migration_does_not_wait_long_behind_a_busy_table(postgres, postgres_template):
    with pytest.raises(OperationalError, match="lock timeout"):
        _migrate_behind_a_lock(postgres, postgres_template)


def _migrate_behind_a_lock(postgres, template):
    postgres.copy(template, "busy")
    url = postgres.url("busy")
    sessions = database.connect(url)
    try:
        with transaction(sessions) as session:
            session.execute(text("LOCK TABLE alembic_version"))
            migrate.upgrade(url)
    finally:
        database.engine_of(sessions).dispose()
        postgres.execute("DROP DATABASE busy WITH (FORCE)")
