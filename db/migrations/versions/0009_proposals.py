"""Images that a person should look at: what was suggested for labelling, and labels that were doubted.

Takes a database of 0008. Gives a table of proposals, empty until the next look. Knows nothing of `models`: what a
release ran is frozen here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "proposals",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("score", sa.Double()),
        sa.Column("label", sa.Text()),
        sa.Column("suggested", sa.Text()),
        sa.Column("probability", sa.Double()),
        sa.Column("split", sa.Text()),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("last_label_id", sa.BigInteger(), nullable=False),
        sa.Column("proposed_at_s", sa.Double(), nullable=False),
        sa.Column("settled_at_s", sa.Double()),
        sa.CheckConstraint("kind IN ('suggest', 'audit')", name=op.f("ck_proposals_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_proposals")),
    )
    op.create_index("ix_proposals_model", "proposals", ["model", "kind", "rank"])
