"""GPU usage"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gpu_usage",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("learner", sa.String(length=255), nullable=False),
        sa.Column("lab", sa.String(length=64), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("held", sa.Double(), nullable=False),
        sa.Column("busy", sa.Double(), nullable=False),
        sa.Column("peak", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run", "learner", "lab", "day"),
    )
    op.create_index("ix_gpu_usage_day", "gpu_usage", ["day", "learner"])


def downgrade() -> None:
    op.drop_table("gpu_usage")
