"""Sums that workers add to for Prometheus, what a worker measures of itself, and the trace a job belongs to.

Takes a database of 0009. Gives the table `counters`, and one column each of workers and of jobs.
Knows nothing of `models`: what a release ran is frozen here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counters",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name="pk_counters"),
    )
    op.add_column("workers", sa.Column("readings", sa.JSON(none_as_null=True)))
    op.add_column("jobs", sa.Column("traceparent", sa.Text))
