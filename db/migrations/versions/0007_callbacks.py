"""Callbacks: who is to be told when a job has ended.

Takes a database of 0006. Gives their table. Knows nothing of `models`: what a release ran is frozen here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_DUE = sa.text("state = 'waiting' AND next_at_s IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "callbacks",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at_s", sa.Double()),
        sa.Column("last_status", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at_s", sa.Double(), nullable=False),
        sa.Column("finished_at_s", sa.Double()),
        sa.CheckConstraint("state IN ('waiting', 'sent', 'given_up')", name=op.f("ck_callbacks_state")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_callbacks_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_callbacks")),
    )
    op.create_index(
        "ix_callbacks_due",
        "callbacks",
        ["next_at_s", "host"],
        postgresql_where=_DUE,
        sqlite_where=_DUE,
    )
