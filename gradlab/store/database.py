"""The database below the store: opened, prepared and brought up to date before anybody reads from it."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gradlab.errors import StoreError

__all__ = ["open_database"]

_BUSY_SECONDS = 15.0
# Any number that nothing else locks in the same database.
_MIGRATION_LOCK = 20_260_101


def open_database(url: str) -> Engine:
    """An engine for this SQLAlchemy URL, its database made or migrated. StoreError names it and what to do."""
    shown = url
    try:
        location = make_url(url)
        shown = location.render_as_string(hide_password=True)
        if location.get_backend_name() == "sqlite" and location.database:
            _make_file(Path(location.database))
        # A connection that its server has given up meanwhile, for example by a restart, is noticed before it is used.
        engine = create_engine(url, pool_pre_ping=location.get_backend_name() != "sqlite")
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
        try:
            _migrate(engine)
        except BaseException:
            engine.dispose()
            raise
    except CommandError as error:
        raise StoreError(
            f"The database {shown!r} was made by a newer Gradlab: {error}. Run that version, or restore a backup."
        ) from error
    except (ArgumentError, SQLAlchemyError, OSError, ImportError) as error:
        remedy = "Check GRADLAB_DATABASE_URL and the folder's permissions."
        if shown.startswith("postgresql"):
            remedy = "Check GRADLAB_DATABASE_URL, and that its server runs and lets this user in."
        raise StoreError(f"The database {shown!r} cannot be opened: {str(error).splitlines()[0]}. {remedy}") from error
    return engine


def _make_file(path: Path) -> None:
    """A new database is its owner's alone, whatever the umask: it holds everybody's answers. Its WAL follows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """WAL lets readers go on while one writes; FULL keeps an acknowledged submission through a power cut."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000:.0f}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch to WAL; OperationalError after the usual time. SQLite itself does not wait for this if another process is
    about to write, as one that starts together with this one may be."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        # Processes that start together would all find no tables and make them; so one goes first, and a migration that
        # fails leaves nothing half-made.
        if connection.dialect.name == "sqlite":
            # The driver begins a transaction only before INSERT and the like.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        elif connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
