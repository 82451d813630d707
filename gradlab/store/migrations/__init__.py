"""Alembic's migrations, run by ``Store.open``. A new one is a file in ``versions`` after the pattern of the last."""
