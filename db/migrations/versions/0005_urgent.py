"""An index over interactive work that waits, so that whoever is busy with bulk may look for it many times a second.

Takes a database of 0004. Gives the shards' index. Knows nothing of `models`: what a release ran is frozen here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_URGENT = sa.text("state = 'waiting' AND priority = 'interactive'")


def upgrade() -> None:
    op.create_index(
        "ix_shards_urgent", "shards", ["model", "version_id"], postgresql_where=_URGENT, sqlite_where=_URGENT
    )
