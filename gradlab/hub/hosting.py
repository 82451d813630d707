"""The hub's configuration where every learner has a container: what differs from the trial's (gradlab.hub.config).

* The proxy is a service of its own, so that the hub can restart while learners work; its API is a Unix socket, which no
  learner's container has.
* ``cleanup_servers`` off: containers outlive the hub. ContainerSpawner finds them again.
* ``concurrent_spawn_limit`` off: who waits for a GPU counts as starting, and a class of a hundred may wait.
* ``pull_policy`` "never": an image that has to be loaded first would take minutes, in which nobody's server starts.
* ``active_server_limit`` off: it would count servers without a GPU too.
* The portal may see and stop servers, for "restart with a GPU".
* With a public address of its own the hub knows how it is called from outside; with ``subdomains`` every server and the
  portal get a host name below it, so that no learner's page can act in another's name.
* Host names below one another share one thing: each may set cookies for all. ``cookie_host_prefix_enabled`` names those
  of a login ``__Host-…``, which a browser takes from nobody but the host that they are sent to; else a learner's page
  could log its visitors in as its owner. It needs https and the path ``/``, so only then.
* The portal's old place, ``/services/portal/`` on the hub's host, stays a route to it: there it says where it is now.
  JupyterHub leads back to that place as well, for of an address to go on to it keeps the path alone.
"""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlsplit

from gradlab.credentials import Credentials
from gradlab.hub.culling import set_culling
from gradlab.hub.environment import Addresses
from gradlab.settings import ROOT, Settings

__all__ = ["SECRETS", "set_hosting"]

# What of Credentials the hub needs.
SECRETS = (
    "learner_password",
    "instructor_password",
    "portal_token",
    "proxy_token",
    "cookie_key",
    "hub_cookie_key",
    "metrics_token",
)

# To see whether a server has a GPU, and to end it for one that has.
PORTAL_SCOPES = ["read:servers", "delete:servers"]
# All that Prometheus may do.
METRICS_SCOPES = ["read:metrics"]


def set_hosting(c: Any, settings: Settings, credentials: Credentials, addresses: Addresses) -> None:
    """Set what only a hosted server needs on JupyterHub's configuration object ``c``."""
    c.JupyterHub.hub_connect_url = addresses.hub
    c.JupyterHub.cookie_secret = bytes.fromhex(credentials.hub_cookie_key)
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False
    c.JupyterHub.concurrent_spawn_limit = 0
    c.JupyterHub.active_server_limit = 0
    c.JupyterHub.template_paths = [str(ROOT / "gradlab" / "hub" / "templates")]
    c.JupyterHub.services = [*c.JupyterHub.services, {"name": "metrics", "api_token": credentials.metrics_token}]
    c.JupyterHub.load_roles = [
        *c.JupyterHub.load_roles,
        {"name": "portal", "services": ["portal"], "scopes": PORTAL_SCOPES},
        {"name": "metrics", "services": ["metrics"], "scopes": METRICS_SCOPES},
    ]
    c.JupyterHub.template_vars = {**c.JupyterHub.template_vars, "why_ended": functools.partial(_why_ended, settings)}
    if settings.public_address:
        c.JupyterHub.public_url = settings.public_address
    if settings.own_hosts:
        _set_own_hosts(c, settings, addresses)
    c.JupyterHub.proxy_class = "gradlab.hub.routes.LastingProxy"
    c.LastingProxy.begin = functools.partial(_take_over, settings)
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.auth_token = credentials.proxy_token
    set_culling(c, settings)
    _set_servers(c, settings)


def _set_own_hosts(c: Any, settings: Settings, addresses: Addresses) -> None:
    c.JupyterHub.subdomain_host = settings.public_address
    c.JupyterHub.cookie_host_prefix_enabled = True
    c.ConfigurableHTTPProxy.extra_routes = {
        f"{urlsplit(settings.public_address).hostname}/services/portal/": addresses.portal
    }


def _as_they_are(_spawner: Any, _options: dict[str, Any]) -> None:
    """For ``apply_user_options``."""


async def _take_over(settings: Settings) -> None:
    """Know what an earlier hub left, and which GPUs there are, before the first learner asks for a server."""
    from gradlab.hub.fleet import Fleet

    await Fleet.of(settings).ready()


def _why_ended(settings: Settings, user: Any) -> str:
    """What is known of the end of this person's server; JupyterHub asks with who is logged in, for every page."""
    from gradlab.hub.fleet import Fleet

    return "" if user is None else Fleet.of(settings).endings.of(user.name)


def _set_servers(c: Any, settings: Settings) -> None:
    from gradlab.hub.containers import volumes

    c.JupyterHub.spawner_class = "gradlab.hub.container_spawner.ContainerSpawner"
    c.ContainerSpawner.settings = settings
    c.ContainerSpawner.image = settings.learner_image
    c.ContainerSpawner.cmd = ["jupyterhub-singleuser"]
    c.ContainerSpawner.pull_policy = "never"
    c.ContainerSpawner.mem_limit = settings.learner_memory_mb << 20
    c.ContainerSpawner.cpu_limit = settings.learner_cpus
    c.ContainerSpawner.prefix = settings.installation
    c.ContainerSpawner.name_template = "{prefix}-server-{username}"
    c.ContainerSpawner.remove = True
    c.ContainerSpawner.use_internal_ip = True
    c.ContainerSpawner.volumes = volumes(settings.installation)
    c.ContainerSpawner.notebook_dir = "/home/lab"
    c.ContainerSpawner.default_url = "/lab"
    c.ContainerSpawner.disable_user_config = True
    # The spawner reads them where they count; without a word of this JupyterHub warns of them at each start.
    c.ContainerSpawner.apply_user_options = _as_they_are
    c.ContainerSpawner.http_timeout = 120
    c.ContainerSpawner.start_timeout = 120
