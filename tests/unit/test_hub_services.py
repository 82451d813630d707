"""What a hosted server's hub tells its services apart from the portal: what each may do, and what it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from gradlab.credentials import VARIABLES
from gradlab.hub.config import configure
from gradlab.settings import Settings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for number, variable in enumerate(VARIABLES.values()):
        monkeypatch.setenv(variable, f"{number:064x}")
    monkeypatch.setenv("PGPASSWORD", "of postgres")
    c = Config()
    configure(c, Settings(spawner="docker", installation="gradlab-test", state_dir=tmp_path, profiles="postgres"))
    return c


def service(config: Any, name: str) -> Any:
    (found,) = [one for one in config.JupyterHub.services if one["name"] == name]
    return found


def test_prometheus_may_read_metrics_and_nothing_else(config: Any) -> None:
    number = list(VARIABLES).index("metrics_token")
    assert service(config, "metrics") == {"name": "metrics", "api_token": f"{number:064x}"}
    roles = [role for role in config.JupyterHub.load_roles if "metrics" in role.get("services", [])]
    assert roles == [{"name": "metrics", "services": ["metrics"], "scopes": ["read:metrics"]}]


def test_what_culls_finds_the_store_on_postgres_too(config: Any) -> None:
    given = service(config, "idle-culler")["environment"]
    assert given["PGPASSWORD"] == "of postgres"
    assert Settings.from_env(
        {name: value for name, value in given.items() if name != "PGPASSWORD"}, None
    ).store_url == ("postgresql+psycopg://gradlab@postgres/gradlab")
    assert config.JupyterHub.db_url == "postgresql+psycopg://gradlab@postgres/jupyterhub"
