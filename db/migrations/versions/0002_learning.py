"""What learning needs: labels, snapshots, runs, gates, ticks and the watch over what was promoted.

Takes a database of 0001. Gives the new tables, the triggers that refuse to change what was said and where an image
belongs, and what a promotion rests on. Knows nothing of `models`: what a release ran is frozen here.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
#: tables that are only added to
_APPEND_ONLY = ("groups", "images", "labels")
_REFUSES = "%s are written once: they are never changed or deleted"


def upgrade() -> None:
    for create in (_label_sets, _classes, _groups, _images, _labels, _snapshots, _runs, _steps, _gates, _ticks):
        create()
    for create in (_live_checks, _drift_windows, _promotions, _outcomes, _workers):
        create()
    _refuse_changes()


def _label_sets() -> None:
    op.create_table(
        "label_sets",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column("is_fixed", sa.Boolean(), nullable=False),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_label_sets")),
    )


def _classes() -> None:
    op.create_table(
        "classes",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("removed_at_s", sa.Double()),
        sa.ForeignKeyConstraint(["model"], ["label_sets.model"], name=op.f("fk_classes_model")),
        sa.PrimaryKeyConstraint("model", "number", name=op.f("pk_classes")),
        sa.UniqueConstraint("model", "name", name=op.f("uq_classes_model_name")),
    )


def _groups() -> None:
    op.create_table(
        "groups",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("split", sa.String(length=16), nullable=False),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.CheckConstraint("split IN ('train', 'val', 'test', 'excluded')", name=op.f("ck_groups_split")),
        sa.ForeignKeyConstraint(["model"], ["label_sets.model"], name=op.f("fk_groups_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint("model", "key", name=op.f("uq_groups_model_key")),
    )


def _images() -> None:
    op.create_table(
        "images",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("dhash", sa.BigInteger(), nullable=False),
        sa.Column("shelf0", sa.Integer(), nullable=False),
        sa.Column("shelf1", sa.Integer(), nullable=False),
        sa.Column("shelf2", sa.Integer(), nullable=False),
        sa.Column("shelf3", sa.Integer(), nullable=False),
        sa.Column("shelf4", sa.Integer(), nullable=False),
        sa.Column("thumbnail", sa.LargeBinary()),
        sa.Column("group_id", _SERIAL, nullable=False),
        sa.Column("near_sha256", sa.String(length=64)),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name=op.f("fk_images_group_id")),
        sa.ForeignKeyConstraint(["model"], ["label_sets.model"], name=op.f("fk_images_model")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("model", "sha256", name=op.f("uq_images_model_sha256")),
    )
    op.create_index("ix_images_shelf0", "images", ["model", "shelf0"])
    op.create_index("ix_images_shelf1", "images", ["model", "shelf1"])
    op.create_index("ix_images_shelf2", "images", ["model", "shelf2"])
    op.create_index("ix_images_shelf3", "images", ["model", "shelf3"])
    op.create_index("ix_images_shelf4", "images", ["model", "shelf4"])


def _labels() -> None:
    op.create_table(
        "labels",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("image_id", _SERIAL, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("class_number", sa.Integer(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("event_key", sa.Text()),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name=op.f("fk_labels_image_id")),
        sa.ForeignKeyConstraint(
            ["model", "class_number"], ["classes.model", "classes.number"], name=op.f("fk_labels_model_class_number")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labels")),
        sa.UniqueConstraint("model", "event_key", name=op.f("uq_labels_model_event_key")),
    )
    op.create_index("ix_labels_class_number", "labels", ["model", "class_number", "id"])
    op.create_index("ix_labels_image_id", "labels", ["image_id", "id"])
    op.create_index("ix_labels_model", "labels", ["model", "id"])


def _snapshots() -> None:
    op.create_table(
        "snapshots",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("num_images", sa.Integer(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("test_digest", sa.Text(), nullable=False),
        sa.Column("last_label_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
        sa.UniqueConstraint("model", "digest", name=op.f("uq_snapshots_model_digest")),
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("verdict", sa.String(length=16)),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("causes", sa.JSON(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("base_id", sa.Integer()),
        sa.Column("parent_id", sa.Integer()),
        sa.Column("snapshot_id", _SERIAL),
        sa.Column("playbook", sa.JSON(), nullable=False),
        sa.Column("is_forced", sa.Boolean(), nullable=False),
        sa.Column("step", sa.Text()),
        sa.Column("progress", sa.JSON()),
        sa.Column("plan", sa.JSON()),
        sa.Column("version_id", sa.Integer()),
        sa.Column("report", sa.Text()),
        sa.Column("error_kind", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("lease_owner", sa.Text()),
        sa.Column("lease_until_s", sa.Double()),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("rung_at_s", sa.Double()),
        sa.Column("cancel_requested_at_s", sa.Double()),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.Column("started_at_s", sa.Double()),
        sa.Column("finished_at_s", sa.Double()),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_runs_state")
        ),
        sa.CheckConstraint(
            "verdict IN ('promote', 'hold', 'reject', 'underpowered', 'not_recommended')", name=op.f("ck_runs_verdict")
        ),
        sa.ForeignKeyConstraint(["base_id"], ["versions.id"], name=op.f("fk_runs_base_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["versions.id"], name=op.f("fk_runs_parent_id")),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name=op.f("fk_runs_snapshot_id")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_runs_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_active", "runs", ["model"], unique=True, **_where("state IN ('queued', 'running')"))
    op.create_index("ix_runs_model", "runs", ["model", "id"])


def _steps() -> None:
    op.create_table(
        "steps",
        sa.Column("run_id", _SERIAL, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("started_at_s", sa.Double(), nullable=False),
        sa.Column("finished_at_s", sa.Double()),
        sa.Column("result", sa.JSON()),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_steps_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_steps")),
    )


def _gates() -> None:
    op.create_table(
        "gates",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", _SERIAL),
        sa.Column("challenger_id", sa.Integer(), nullable=False),
        sa.Column("champion_id", sa.Integer()),
        sa.Column("test_digest", sa.Text(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("numbers", sa.JSON(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.CheckConstraint("verdict IN ('promote', 'hold', 'reject', 'underpowered')", name=op.f("ck_gates_verdict")),
        sa.ForeignKeyConstraint(["challenger_id"], ["versions.id"], name=op.f("fk_gates_challenger_id")),
        sa.ForeignKeyConstraint(["champion_id"], ["versions.id"], name=op.f("fk_gates_champion_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_gates_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gates")),
    )
    op.create_index("ix_gates_run_id", "gates", ["run_id"])


def _ticks() -> None:
    op.create_table(
        "ticks",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("is_fired", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("run_id", _SERIAL),
        sa.Column("first_at_s", sa.Double(), nullable=False),
        sa.Column("last_at_s", sa.Double(), nullable=False),
        sa.Column("num_ticks", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_ticks_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ticks")),
    )
    op.create_index("ix_ticks_model", "ticks", ["model", "id"])


def _live_checks() -> None:
    op.create_table(
        "live_checks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("promotion_epoch", sa.BigInteger(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("previous_version_id", sa.Integer(), nullable=False),
        sa.Column("replay_job_id", sa.Uuid()),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("numbers", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("began_at_s", sa.Double(), nullable=False),
        sa.Column("ended_at_s", sa.Double()),
        sa.CheckConstraint("state IN ('watching', 'passed', 'rolled_back')", name=op.f("ck_live_checks_state")),
        sa.ForeignKeyConstraint(
            ["previous_version_id"], ["versions.id"], name=op.f("fk_live_checks_previous_version_id")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_live_checks_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_live_checks")),
        sa.UniqueConstraint("model", "promotion_epoch", name=op.f("uq_live_checks_model_promotion_epoch")),
    )


def _drift_windows() -> None:
    op.create_table(
        "drift_windows",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("after_s", sa.Double(), nullable=False),
        sa.Column("until_s", sa.Double(), nullable=False),
        sa.Column("num_items", sa.Integer(), nullable=False),
        sa.Column("min_p", sa.Double(), nullable=False),
        sa.Column("is_alarm", sa.Boolean(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_drift_windows_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drift_windows")),
        sa.UniqueConstraint("model", "version_id", "after_s", name=op.f("uq_drift_windows_model_version_id_after_s")),
    )


def _promotions() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _promotions_again()
        return
    op.add_column("promotions", sa.Column("is_forced", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("promotions", sa.Column("gate_id", sa.Integer()))
    op.create_foreign_key(op.f("fk_promotions_gate_id"), "promotions", "gates", ["gate_id"], ["id"])


def _promotions_again() -> None:
    # SQLite adds no named constraint to a table: it is made anew, and nothing refers to it.
    op.rename_table("promotions", "promotions_0001")
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
        sa.Column("is_forced", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("gate_id", sa.Integer()),
        sa.CheckConstraint("kind IN ('promote', 'rollback')", name=op.f("ck_promotions_kind")),
        sa.ForeignKeyConstraint(["gate_id"], ["gates.id"], name=op.f("fk_promotions_gate_id")),
        sa.ForeignKeyConstraint(
            ["previous_version_id"], ["versions.id"], name=op.f("fk_promotions_previous_version_id")
        ),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_promotions_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
        sa.UniqueConstraint("model", "epoch", name=op.f("uq_promotions_model_epoch")),
    )
    op.execute(
        "INSERT INTO promotions (id, model, version_id, previous_version_id, epoch, kind, who, reason, at_s) "
        "SELECT id, model, version_id, previous_version_id, epoch, kind, who, reason, at_s FROM promotions_0001"
    )
    op.drop_table("promotions_0001")


def _workers() -> None:
    op.add_column("workers", sa.Column("device_id", sa.Text()))


def _outcomes() -> None:
    op.create_index("ix_outcomes_version_id", "outcomes", ["version_id", "recorded_at_s"])


def _refuse_changes() -> None:
    refuse = _refuse_sqlite if op.get_bind().dialect.name == "sqlite" else _refuse_postgresql
    for table in _APPEND_ONLY:
        refuse(table)


def _refuse_sqlite(table: str) -> None:
    for event in ("update", "delete"):
        op.execute(
            f"CREATE TRIGGER tr_{table}_{event} BEFORE {event.upper()} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSES % table}'); END"
        )


def _refuse_postgresql(table: str) -> None:
    op.execute(
        f"CREATE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSES % table}' USING ERRCODE = 'restrict_violation'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER tr_{table} BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION refuse_{table}()"
    )


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}
