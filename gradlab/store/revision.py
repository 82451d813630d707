"""Which version of its tables a database has, and which this code wants: looked at, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from gradlab.errors import StoreError

__all__ = ["MIGRATIONS", "Revision", "look_up"]

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True)
class Revision:
    """``location`` is the database's URL without its password; ``found`` is empty where no version is written down."""

    location: str
    found: str
    wanted: str
    known: bool


def look_up(url: str, migrations: Path = MIGRATIONS) -> Revision | None:
    """The version of the database at this SQLAlchemy URL against its Alembic ``migrations``.

    None if it is a file that is not there. StoreError says why it cannot be opened.
    """
    location = make_url(url)
    shown = location.render_as_string(hide_password=True)
    if location.get_backend_name() == "sqlite" and not Path(location.database or "").exists():
        return None
    try:
        engine = create_engine(url)
        try:
            with engine.connect() as connection:
                found = _written(connection)
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        raise StoreError(f"The database {shown!r} cannot be opened: {str(error).splitlines()[0]}") from None
    scripts = ScriptDirectory(str(migrations))
    known = {script.revision for script in scripts.walk_revisions()}
    return Revision(shown, found, str(scripts.get_current_head()), found in known)


def _written(connection: Connection) -> str:
    if "alembic_version" not in inspect(connection).get_table_names():
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")
