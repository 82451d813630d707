"""Alembic's migrations. A new one: ``alembic -c gradlab/store/alembic.ini revision --autogenerate -m "…"``."""
