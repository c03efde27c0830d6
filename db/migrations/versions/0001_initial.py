"""The first schema.

Takes an empty database. Gives the registry, the queue of record and the workers' heartbeats.
Knows nothing of `models`: what a release ran is frozen here, and a test compares the two.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    for create in (_versions, _serving, _promotions, _jobs, _parts, _shards, _outcomes, _workers):
        create()


def _versions() -> None:
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.Column("num_classes", sa.Integer(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("parent_id", sa.Integer()),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("num_parameters", sa.BigInteger(), nullable=False),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.CheckConstraint("source IN ('import', 'demo', 'run')", name=op.f("ck_versions_source")),
        sa.ForeignKeyConstraint(["parent_id"], ["versions.id"], name=op.f("fk_versions_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("model", "number", name=op.f("uq_versions_model_number")),
    )


def _serving() -> None:
    op.create_table(
        "serving",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_serving_version_id")),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_serving")),
    )


def _promotions() -> None:
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("previous_version_id", sa.Integer()),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.CheckConstraint("kind IN ('promote', 'rollback')", name=op.f("ck_promotions_kind")),
        sa.ForeignKeyConstraint(
            ["previous_version_id"], ["versions.id"], name=op.f("fk_promotions_previous_version_id")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_promotions_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
        sa.UniqueConstraint("model", "epoch", name=op.f("uq_promotions_model_epoch")),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Integer()),
        sa.Column("priority", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("top_k", sa.Integer(), nullable=False),
        sa.Column("num_items", sa.Integer(), nullable=False),
        sa.Column("num_received", sa.Integer(), nullable=False),
        sa.Column("num_succeeded", sa.Integer(), nullable=False),
        sa.Column("num_failed", sa.Integer(), nullable=False),
        sa.Column("num_open_shards", sa.Integer(), nullable=False),
        sa.Column("deadline_s", sa.Double()),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.Column("accepted_at_s", sa.Double()),
        sa.Column("started_at_s", sa.Double()),
        sa.Column("finished_at_s", sa.Double()),
        sa.Column("caller", sa.Text()),
        sa.CheckConstraint("priority IN ('interactive', 'bulk')", name=op.f("ck_jobs_priority")),
        sa.CheckConstraint(
            "state IN ('receiving', 'accepted', 'running', 'succeeded', 'partial', 'failed', 'cancelled', 'expired')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint("num_received <= num_items", name=op.f("ck_jobs_received")),
        sa.CheckConstraint("num_succeeded + num_failed <= num_received", name=op.f("ck_jobs_recorded")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_jobs_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_jobs_idempotency_key")),
    )
    op.create_index("ix_jobs_created_at_s", "jobs", ["created_at_s"])
    op.create_index("ix_jobs_open", "jobs", ["model", "version_id"], **_where("finished_at_s IS NULL"))


def _parts() -> None:
    op.create_table(
        "parts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("first_position", sa.Integer(), nullable=False),
        sa.Column("num_items", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_parts_job_id")),
        sa.PrimaryKeyConstraint("job_id", "first_position", name=op.f("pk_parts")),
    )


def _shards() -> None:
    op.create_table(
        "shards",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Integer()),
        sa.Column("priority", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("num_items", sa.Integer(), nullable=False),
        sa.Column("items", sa.JSON()),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.Text()),
        sa.Column("lease_until_s", sa.Double()),
        sa.Column("not_before_s", sa.Double()),
        sa.Column("rung_at_s", sa.Double()),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.Column("finished_at_s", sa.Double()),
        sa.CheckConstraint("priority IN ('interactive', 'bulk')", name=op.f("ck_shards_priority")),
        sa.CheckConstraint("state IN ('waiting', 'claimed', 'done', 'split', 'dropped')", name=op.f("ck_shards_state")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_shards_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shards")),
    )
    op.create_index("ix_shards_claimed", "shards", ["lease_until_s"], **_where("state = 'claimed'"))
    op.create_index("ix_shards_job_id", "shards", ["job_id"])
    op.create_index("ix_shards_unrung", "shards", ["id"], **_where("state = 'waiting' AND rung_at_s IS NULL"))
    op.create_index(
        "ix_shards_waiting",
        "shards",
        ["model", "version_id", "priority", "id"],
        **_where("state = 'waiting'"),
    )


def _outcomes() -> None:
    op.create_table(
        "outcomes",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("shard_id", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text()),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("label", sa.Text()),
        sa.Column("score", sa.Double()),
        sa.Column("top_k", sa.JSON()),
        sa.Column("version_id", sa.Integer()),
        sa.Column("error_stage", sa.Text()),
        sa.Column("error_kind", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("recorded_at_s", sa.Double(), nullable=False),
        sa.CheckConstraint("(label IS NULL) <> (error_kind IS NULL)", name=op.f("ck_outcomes_label_or_error")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_outcomes_version_id")),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_outcomes")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_outcomes_errors", "outcomes", ["job_id", "position"], **_where("error_kind IS NOT NULL"))


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("warm", sa.JSON(), nullable=False),
        sa.Column("message", sa.Text()),
        sa.Column("started_at_s", sa.Double(), nullable=False),
        sa.Column("heartbeat_at_s", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "state IN ('starting', 'ready', 'busy', 'setup_failed', 'stopped')", name=op.f("ck_workers_state")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}
