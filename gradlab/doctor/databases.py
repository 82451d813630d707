"""The two databases of a hosted server: reached, and of the version that this code wants. Nothing is migrated here."""

from __future__ import annotations

from pathlib import Path

from gradlab.doctor.finding import Finding
from gradlab.errors import StoreError
from gradlab.store.revision import MIGRATIONS, look_up

__all__ = ["database", "hub_migrations"]


def hub_migrations() -> Path:
    """Those of the JupyterHub that is installed."""
    from jupyterhub.dbutil import ALEMBIC_DIR

    return Path(ALEMBIC_DIR)


def database(name: str, url: str, service: str, migrations: Path = MIGRATIONS) -> Finding:
    """The database at this SQLAlchemy URL, which ``service`` makes and migrates at its start."""
    try:
        revision = look_up(url, migrations)
    except StoreError as error:
        remedy = f"See whether its server runs and lets us in: docker compose ps; docker compose logs {service}"
        return Finding(name, "failed", str(error), remedy)
    if revision is None:
        remedy = f"The {service} makes it at its first start; see: docker compose logs {service}"
        return Finding(name, "failed", f"{url} is not there", remedy)
    if revision.found == revision.wanted:
        return Finding(name, "ok", f"{revision.location}, at version {revision.found}")
    if revision.found and not revision.known:
        value = f"{revision.location} was made by a newer version of this software (version {revision.found})"
        return Finding(name, "failed", value, "Run that version, or restore a backup: make restore FILE=…")
    value = f"{revision.location} is at version {revision.found or 'none'}, this code wants {revision.wanted}"
    return Finding(name, "failed", value, f"The {service} migrates it when it starts: docker compose restart {service}")
