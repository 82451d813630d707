"""Servers that nobody uses are stopped, and GPUs that nobody uses go back: jupyterhub-idle-culler, with a say in it.

The rules, in one pure function, :func:`decide`:

* A server without use for ``cull_minutes`` is stopped. Use is what the Hub calls activity, and for a server that holds
  a GPU also computing, on the GPU or on processors.
* One that holds a GPU and computes nowhere for ``gpu_idle_minutes`` is warned, and stopped ``gpu_warn_minutes`` later:
  a running container's GPU cannot be taken away otherwise. If it computes meanwhile the warning is withdrawn. An open
  browser tab is activity for the Hub, whether or not somebody sits before it, so here it does not count.
* While the GPU monitor does not answer, or cannot tell, who holds a GPU is kept.

Warnings are notices of the store and nothing else, so they outlive the culler. JupyterHub starts this module as a
managed service (``python -m gradlab.hub.culling``); it hands the culler its hook itself, because a configuration file
that cannot be read would leave the culler with its own rule, which knows of no GPU.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx

from gradlab.hub.environment import settings_environment
from gradlab.settings import PREFIX, Settings
from gradlab.store import Store

__all__ = ["Culler", "Decision", "Server", "decide", "main", "set_culling"]

# Also where this module is the program, and called __main__.
log = logging.getLogger("gradlab.hub.culling")

Activity = Mapping[str, Any]

SERVICE = "idle-culler"
SCOPES = ["list:users", "read:servers", "delete:servers", "admin:server_state"]
# What of the settings the service needs; the others hold secrets that it does not.
_SETTINGS = (
    "state_dir",
    "database_url",
    "profiles",
    "run_dir",
    "gpus",
    "cull_minutes",
    "gpu_idle_minutes",
    "gpu_warn_minutes",
    "log_level",
)

_EVERY_SECONDS = 60
_MONITOR_SECONDS = 5.0
# One answer of the monitor is for all servers that are looked at in one go.
_FRESH_SECONDS = 5.0
# How long after its time a warning is kept: the next look may be late.
_GRACE_SECONDS = 600.0
# For whoever comes back to find the server stopped.
_TOLD_SECONDS = 12 * 3600.0


@dataclass(frozen=True)
class Server:
    """One learner's running server, as far as it matters here; times are seconds since the epoch."""

    name: str
    learner: str
    gpu: bool
    container: str
    started: float
    active_at: float

    @classmethod
    def of(cls, model: Mapping[str, Any], inactive: timedelta, now: float) -> Server:
        """Of JupyterHub's model; ``inactive`` is how long the Hub has known of no activity."""
        active_at = now - inactive.total_seconds()
        started = model.get("started")
        return cls(
            name=model["full_name"],
            learner=model["full_name"].partition("/")[0],
            gpu=bool((model.get("user_options") or {}).get("gpu")),
            container=str((model.get("state") or {}).get("object_id") or ""),
            started=datetime.fromisoformat(started).timestamp() if started else active_at,
            active_at=active_at,
        )


@dataclass(frozen=True)
class Decision:
    """What becomes of a server. ``withdraw`` says that an earlier warning no longer holds."""

    action: Literal["keep", "warn", "cull"]
    reason: str
    withdraw: bool = False


def decide(server: Server, activity: Activity | None, now: float, settings: Settings, warned: float | None) -> Decision:
    """What to do with a server. ``activity`` is the GPU monitor's, None if it does not answer; ``warned`` is when the
    learner was warned, if at all."""
    known = _known(server, activity)
    if not _holds_gpu(server, settings, known):
        return _plain(server.active_at, now, settings)
    used = _used_at(server, activity, known)
    if isinstance(used, str):
        return Decision("keep", f"It holds a GPU, and {used}")
    idle = settings.gpu_idle_minutes * 60
    if not idle or now - used < idle:
        found = _plain(max(server.active_at, used), now, settings)
        return Decision(found.action, found.reason, withdraw=warned is not None)
    unused = f"Its GPU has not been used for {_minutes(now - used)}"
    if settings.gpu_warn_minutes and (warned is None or used > warned):
        return Decision("warn", f"{unused}.")
    if warned is not None and now - warned < settings.gpu_warn_minutes * 60:
        return Decision("keep", f"{unused}; the learner was warned {_minutes(now - warned)} ago.")
    return Decision("cull", f"{unused}.")


def _known(server: Server, activity: Activity | None) -> Mapping[str, Any] | None:
    return None if activity is None else activity["containers"].get(server.container)


def _holds_gpu(server: Server, settings: Settings, known: Mapping[str, Any] | None) -> bool:
    """Whoever asked for one while GPUs are given out, and whoever is seen on one in any case."""
    return (server.gpu and settings.gpus != "none") or bool(known and known["processes"])


def _plain(active_at: float, now: float, settings: Settings) -> Decision:
    if not settings.cull_minutes:
        return Decision("keep", "Servers are not stopped for want of use.")
    unused = f"It has not been used for {_minutes(now - active_at)}."
    return Decision("cull" if now - active_at >= settings.cull_minutes * 60 else "keep", unused)


def _used_at(server: Server, activity: Activity | None, known: Mapping[str, Any] | None) -> float | str:
    """When the server computed last, on its GPU or on processors; or why nobody can say."""
    if activity is None:
        return "the GPU monitor does not answer."
    if not activity["ok"]:
        return f"the GPU monitor cannot tell its use. {activity['message']}"
    if not server.container:
        return "which container it runs in is not known."
    errors = [device["error"] for device in activity["devices"].values() if device["error"]]
    if errors and not (known and known["processes"]):
        return f"a GPU cannot be asked. {errors[0]}"
    known = known or {}
    signs = [server.started, activity["since"], known.get("busy_at")]
    if not known.get("measured", True):
        signs.append(known["held_at"])
    # Where the monitor does not see who computes, the Hub's word has to do.
    signs.append(known.get("computing_at") if activity["processors"] else server.active_at)
    return max(float(sign) for sign in signs if sign is not None)


def _minutes(seconds: float) -> str:
    minutes = int(max(0.0, seconds) // 60)
    return f"{minutes} minute" if minutes == 1 else f"{minutes} minutes"


class Culler:
    """The idle-culler's hook: asks the GPU monitor, decides, warns."""

    def __init__(self, settings: Settings, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._answer: tuple[float, Activity | None] | None = None
        self._silent = ""

    async def arbitrate(self, inactive: timedelta | None, inactive_limit: float, server: Mapping[str, Any]) -> bool:
        """Whether this server is to be stopped."""
        if inactive is None:
            return False
        now = self._clock()
        found = Server.of(server, inactive, now)
        activity = await self._activity(now)
        warned = self._warned(found, activity, now)
        decision = decide(found, activity, now, self._settings, warned)
        log.debug("%s: %s. %s", found.name, decision.action, decision.reason)
        if decision.withdraw:
            self._store.withdraw(found.learner, _warning(found))
            log.info("%s is used again; the warning is withdrawn.", found.name)
        if decision.action == "warn":
            self._warn(found, now)
            log.info("%s is warned. %s", found.name, decision.reason)
        if decision.action == "cull":
            self._tell(found, decision, now)
            log.info("%s is stopped. %s", found.name, decision.reason)
        return decision.action == "cull"

    def _warned(self, server: Server, activity: Activity | None, now: float) -> float | None:
        """When the learner was warned. Servers without a GPU can be told without asking the database."""
        if not _holds_gpu(server, self._settings, _known(server, activity)):
            return None
        notices = self._store.notices(server.learner, now)
        return next((notice.at for notice in notices if notice.key == _warning(server)), None)

    def _warn(self, server: Server, now: float) -> None:
        idle, left = self._settings.gpu_idle_minutes * 60, self._settings.gpu_warn_minutes * 60
        text = (
            f"Your server holds a GPU and has not computed anything for {_minutes(idle)}. {_minutes(left)} after this "
            "message it is stopped, so that somebody else can have the GPU; your files stay. To keep it, run a cell "
            "that computes for some seconds."
        )
        key = _warning(server)
        self._store.notify(server.learner, text, key=key, until=now + left + _GRACE_SECONDS, now=now)

    def _tell(self, server: Server, decision: Decision, now: float) -> None:
        """For whoever comes back; not so important that a database out of order should keep idle servers running."""
        text = f"Your server was stopped. {decision.reason} Your files are as you left them."
        try:
            self._store.notify(server.learner, text, key="stopped", until=now + _TOLD_SECONDS, now=now)
        except Exception as error:
            log.warning("%s could not be told why the server was stopped: %s", server.learner, error)

    async def _activity(self, now: float) -> Activity | None:
        """The GPU monitor's answer, None without one. Its silence is logged when it begins and when it ends."""
        if self._settings.gpus == "none":
            return None
        if self._answer is None or not 0 <= now - self._answer[0] < _FRESH_SECONDS:
            self._answer = (now, await self._ask())
        return self._answer[1]

    async def _ask(self) -> Activity | None:
        found, silent = await _activity_at(self._settings.gpu_socket)
        if silent and not self._silent:
            log.warning("The GPU monitor is of no use. %s Servers that hold a GPU are kept until it is.", silent)
        if self._silent and not silent:
            log.info("The GPU monitor is of use again.")
        self._silent = silent
        return found


async def _activity_at(socket: Path) -> tuple[Activity | None, str]:
    """What the GPU monitor says of containers, and why that is of no use, if it is not."""
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        async with httpx.AsyncClient(transport=transport, timeout=_MONITOR_SECONDS) as client:
            found: dict[str, Any] = (await client.get("http://gpus/activity")).raise_for_status().json()
            return found, "" if found["ok"] else str(found["message"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        return None, f"It does not answer at {socket} ({str(error) or type(error).__name__})."


def _warning(server: Server) -> str:
    """The notice's key: one a server."""
    return f"gpu idle/{server.name.partition('/')[2]}"


def set_culling(c: Any, settings: Settings) -> None:
    """Set on JupyterHub's configuration object ``c`` that the hub starts this module, if anything is to be culled."""
    if not settings.cull_minutes and not settings.gpu_idle_minutes:
        return
    wanted = {f"{PREFIX}{name.upper()}" for name in _SETTINGS}
    service = {
        "name": SERVICE,
        # It ends with the hub, even one that is killed.
        "command": ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "gradlab.hub.culling"],
        "environment": {name: value for name, value in settings_environment(settings).items() if name in wanted}
        # Where the store's database asks for one.
        | {name: value for name, value in os.environ.items() if name == "PGPASSWORD"},
    }
    c.JupyterHub.services = [*c.JupyterHub.services, service]
    c.JupyterHub.load_roles = [*c.JupyterHub.load_roles, {"name": SERVICE, "services": [SERVICE], "scopes": SCOPES}]
    # How old what the Hub knows of activity may be. It is five minutes otherwise, and who came back in the last of the
    # sixty would be stopped all the same.
    c.JupyterHub.last_activity_interval = _EVERY_SECONDS


def main() -> None:
    """Run the idle-culler with our hook until the hub ends it."""
    from jupyterhub_idle_culler import IdleCuller  # type: ignore[import-untyped]

    settings = Settings.from_env()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    culler = Culler(settings, Store.open(settings.store_url))
    IdleCuller.launch_instance(
        [],
        config_file="",
        cull_arbiter_hook=culler.arbitrate,
        cull_every=_EVERY_SECONDS,
        timeout=settings.cull_minutes * 60,
        log_level=settings.log_level,
    )


if __name__ == "__main__":
    main()
