"""What an operator asks for: work that is paused, workers that drain, jobs that are being removed.

Takes a database of 0007. Gives their tables, and the process that a worker is drained by. Knows nothing of `models`:
what a release ran is frozen here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_WORK = "work IN ('interactive', 'bulk', 'learning')"


def upgrade() -> None:
    op.add_column("workers", sa.Column("parent_pid", sa.Integer()))
    op.create_table(
        "drains",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("parent_pid", sa.Integer(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.Column("drained_at_s", sa.Double()),
        sa.PrimaryKeyConstraint("host", "parent_pid", name=op.f("pk_drains")),
    )
    op.create_table(
        "pauses",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("work", sa.String(16), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("model", "work", name=op.f("pk_pauses")),
        sa.CheckConstraint(_WORK, name=op.f("ck_pauses_work")),
    )
    op.create_table(
        "removals",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("at_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_removals")),
    )
