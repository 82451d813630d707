"""Alembic's entry point; the store hands over an open connection."""

from alembic import context

from gradlab.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
