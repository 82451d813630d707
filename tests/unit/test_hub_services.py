"""What a hosted server's hub tells its services apart from the portal: what each may do, and what it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradlab.settings import Settings
from tests.hubs import SECRETS, hosted


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PGPASSWORD", "of postgres")
    return hosted(monkeypatch, tmp_path, profiles="postgres")


def service(config: Any, name: str) -> Any:
    (found,) = [one for one in config.JupyterHub.services if one["name"] == name]
    return found


def test_prometheus_may_read_metrics_and_nothing_else(config: Any) -> None:
    assert service(config, "metrics") == {"name": "metrics", "api_token": SECRETS["metrics_token"]}
    roles = [role for role in config.JupyterHub.load_roles if "metrics" in role.get("services", [])]
    assert roles == [{"name": "metrics", "services": ["metrics"], "scopes": ["read:metrics"]}]


def test_what_culls_finds_the_store_on_postgres_too(config: Any) -> None:
    given = service(config, "idle-culler")["environment"]
    assert given["PGPASSWORD"] == "of postgres"
    assert Settings.from_env(
        {name: value for name, value in given.items() if name != "PGPASSWORD"}, None
    ).store_url == ("postgresql+psycopg://gradlab@postgres/gradlab")
    assert config.JupyterHub.db_url == "postgresql+psycopg://gradlab@postgres/jupyterhub"
