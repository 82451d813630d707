"""What the hub of a hosted server is told beside a trial's: what outlives it, what bounds it, and who may do what."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.app import JupyterHub
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.scopes import scope_definitions
from traitlets.config import Config

from gradlab.credentials import VARIABLES
from gradlab.errors import SettingsError
from gradlab.hub.config import PORTAL_SCOPE, configure
from gradlab.hub.container_spawner import ContainerSpawner
from gradlab.hub.containers import HOME
from gradlab.hub.hosting import SECRETS as NEEDED
from gradlab.settings import ROOT, Settings
from tests.hubs import INSTALLATION, SECRETS, hosted, set_secrets


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return hosted(monkeypatch, tmp_path, run_dir=tmp_path)


def text_of(found: Any) -> str:
    """Everything that is set, the secrets among it; Settings hold none."""
    return repr({section: dict(found[section]) for section in found})


def spawner(config: Any, name: str) -> Any:
    """What JupyterHub makes of it for this learner."""
    return ContainerSpawner(config=config, user=SimpleNamespace(name=name))


# -- the hub -------------------------------------------------------------------------------------------------------


def test_the_configuration_is_one_that_the_classes_know_and_take(config: Any) -> None:
    """JupyterHub only warns of a name that it does not know, and goes on with its default."""
    for made in (JupyterHub(config=config), ConfigurableHTTPProxy(config=config), spawner(config, "ada")):
        assert set(config[type(made).__name__]) <= set(made.traits(config=True))


def test_servers_outlive_the_hub(config: Any) -> None:
    assert config.JupyterHub.cleanup_servers is False
    assert config.JupyterHub.cleanup_proxy is False
    assert config.ConfigurableHTTPProxy.should_start is False
    assert "command" not in config.ConfigurableHTTPProxy
    assert "cookie_secret_file" not in config.JupyterHub


def test_a_class_that_waits_for_gpus_meets_no_limit_of_jupyterhubs(config: Any) -> None:
    assert config.JupyterHub.concurrent_spawn_limit == 0
    assert config.JupyterHub.active_server_limit == 0


def test_services_meet_at_names_and_the_proxys_api_at_a_socket(config: Any, tmp_path: Path) -> None:
    assert config.JupyterHub.hub_bind_url == "http://0.0.0.0:8081"
    assert config.JupyterHub.hub_connect_url == "http://hub:8081"
    assert config.JupyterHub.services[0]["url"] == "http://portal:8082"
    assert config.ConfigurableHTTPProxy.api_url == f"http+unix://{str(tmp_path / 'proxy.sock').replace('/', '%2F')}"


def test_the_pages_of_a_hosted_hub_come_before_jupyterhubs(config: Any) -> None:
    configure(config, Settings(spawner="docker"))  # twice is as once
    (first,) = JupyterHub(config=config).template_paths  # it adds its own behind when it starts
    assert Path(first) == ROOT / "gradlab" / "hub" / "templates"
    assert {path.name for path in Path(first).iterdir()} == {"not_running.html", "spawn.html"}
    assert config.JupyterHub.template_vars["why_ended"](None) == ""


# -- learners' servers ---------------------------------------------------------------------------------------------


def test_a_server_is_made_of_the_image_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hosted(monkeypatch, tmp_path, learner_image="registry/lab:7")
    assert found.JupyterHub.spawner_class == "gradlab.hub.container_spawner.ContainerSpawner"
    assert found.ContainerSpawner.image == "registry/lab:7"
    assert found.ContainerSpawner.pull_policy == "never"
    assert found.ContainerSpawner.cmd == ["jupyterhub-singleuser"]
    assert found.ContainerSpawner.settings.learner_image == "registry/lab:7"


def test_limits_of_mebibytes_are_told_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hosted(monkeypatch, tmp_path, learner_memory_mb=1536, learner_cpus=1.5).ContainerSpawner
    assert (found.mem_limit, found.cpu_limit) == (1536 * 1024 * 1024, 1.5)


def test_a_container_goes_with_its_server_and_the_home_stays(config: Any) -> None:
    found = spawner(config, "ada")
    assert found.remove is True
    assert found.volume_binds == {f"{INSTALLATION}-home-ada": {"bind": HOME, "mode": "rw"}}
    assert found.notebook_dir == HOME


def test_containers_and_homes_are_called_after_installation_and_learner_and_no_two_the_same(config: Any) -> None:
    assert spawner(config, "ada").object_name == f"{INSTALLATION}-server-ada"
    made = [spawner(config, name) for name in ("a.b", "a-b", "a_b", "a-2eb", "a-5fb", "a--b")]
    assert len({one.object_name for one in made}) == len({name for one in made for name in one.volume_binds}) == 6
    assert all(one.use_internal_ip for one in made)


def test_a_home_cannot_lock_its_learner_out(config: Any) -> None:
    assert config.ContainerSpawner.disable_user_config is True
    assert config.ContainerSpawner.default_url == "/lab"
    options = {"lab": "tensors"}
    assert config.ContainerSpawner.apply_user_options(None, options) is None
    assert options == {"lab": "tensors"}


def test_a_class_that_starts_at_once_has_time(config: Any) -> None:
    found = config.ContainerSpawner
    assert (found.start_timeout, found.http_timeout) == (120, 120)  # JupyterHub's are 60 and 30 s


# -- who may do what -----------------------------------------------------------------------------------------------


def test_nobody_has_a_scope_but_these(config: Any) -> None:
    roles = {role["name"]: (role.get("services"), role["scopes"]) for role in config.JupyterHub.load_roles}
    assert roles == {
        "server": (None, ["users:activity!user", "access:servers!server", PORTAL_SCOPE]),
        "portal": (["portal"], ["read:servers", "delete:servers"]),
        "metrics": (["metrics"], ["read:metrics"]),
        "idle-culler": (["idle-culler"], ["list:users", "read:servers", "delete:servers", "admin:server_state"]),
    }
    assert len(config.JupyterHub.load_roles) == len(roles)
    for _, scopes in roles.values():
        assert {scope.partition("!")[0] for scope in scopes} <= set(scope_definitions)
    assert not any(service.get("admin") for service in config.JupyterHub.services)


def test_without_anything_to_cull_no_role_is_left_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hosted(monkeypatch, tmp_path, cull_minutes=0, gpu_idle_minutes=0)
    assert [role["name"] for role in found.JupyterHub.load_roles] == ["server", "portal", "metrics"]


def test_secrets_are_where_they_belong_and_nowhere_else(config: Any) -> None:
    portal, metrics, culler = config.JupyterHub.services
    assert portal["api_token"] == SECRETS["portal_token"]
    assert metrics["api_token"] == SECRETS["metrics_token"]
    assert config.ConfigurableHTTPProxy.auth_token == SECRETS["proxy_token"]
    assert config.JupyterHub.cookie_secret == bytes.fromhex(SECRETS["hub_cookie_key"])
    assert not [name for name, value in SECRETS.items() if value in repr(culler)]
    assert SECRETS["cookie_key"] not in text_of(config)  # the portal's sessions are none of the hub's business
    for name in ("portal_token", "proxy_token", "metrics_token"):
        assert text_of(config).count(SECRETS[name]) == 1, name


@pytest.mark.parametrize("name", NEEDED)
def test_a_secret_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    set_secrets(monkeypatch)
    monkeypatch.delenv(VARIABLES[name])
    with pytest.raises(SettingsError) as caught:
        configure(Config(), Settings(spawner="docker", state_dir=tmp_path))
    said = f"{VARIABLES[name]} is not set. `make secrets` writes it to .env, from where compose has it."
    assert str(caught.value) == said


# -- addresses -----------------------------------------------------------------------------------------------------


def test_without_a_public_address_the_hub_believes_what_a_browser_says(config: Any) -> None:
    for name in ("public_url", "subdomain_host", "subdomain_hook", "cookie_host_prefix_enabled"):
        assert name not in config.JupyterHub
    assert "extra_routes" not in config.ConfigurableHTTPProxy


def test_with_a_public_address_the_hub_knows_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hosted(monkeypatch, tmp_path, public_address="https://lab.example.org/")
    assert found.JupyterHub.public_url == "https://lab.example.org"
    assert "subdomain_host" not in found.JupyterHub
    assert "cookie_host_prefix_enabled" not in found.JupyterHub


def test_with_subdomains_every_server_has_a_host_name_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hosted(monkeypatch, tmp_path, public_address="https://lab.example.org", subdomains=True)
    assert found.JupyterHub.public_url == found.JupyterHub.subdomain_host == "https://lab.example.org"
    assert found.JupyterHub.cookie_host_prefix_enabled is True
    assert found.ConfigurableHTTPProxy.extra_routes == {"lab.example.org/services/portal/": "http://portal:8082"}


def test_a_trial_has_nothing_of_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hosted(monkeypatch, tmp_path, spawner="process", public_address="https://lab.example.org")
    assert "ContainerSpawner" not in found
    assert found.JupyterHub.cleanup_servers is True
    assert [role["name"] for role in found.JupyterHub.load_roles] == ["server"]
    assert not {"public_url", "subdomain_host", "hub_connect_url", "cookie_secret"} & set(found.JupyterHub)
