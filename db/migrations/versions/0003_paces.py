"""How fast each worker is, so that a shard can be what it does in a second.

Takes a database of 0002. Gives the workers' column. Knows nothing of `models`: what a release ran is frozen here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("images_per_s", sa.JSON()))
