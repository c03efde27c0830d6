"""What an image's bytes were, so that a version need not classify the same ones twice.

Takes a database of 0003. Gives the outcomes' column and its index, empty until answers are recalled. Knows nothing of
`models`: what a release ran is frozen here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

#: an index over nothing costs nothing
_KNOWN = sa.text("content_sha256 IS NOT NULL")


def upgrade() -> None:
    op.add_column("outcomes", sa.Column("content_sha256", sa.Text()))
    op.create_index(
        "ix_outcomes_content",
        "outcomes",
        ["version_id", "content_sha256", "recorded_at_s"],
        postgresql_where=_KNOWN,
        sqlite_where=_KNOWN,
    )
