"""What every process of one running server has in its environment, and the addresses they meet at."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from gradlab.settings import PREFIX, Settings

__all__ = [
    "MARKER",
    "PART",
    "Addresses",
    "Ports",
    "instance_of",
    "server_environment",
    "settings_environment",
    "uid_of",
]

# Not GRADLAB_…: Settings refuses names it does not know, and this one is no setting.
MARKER = "_GRADLAB_INSTANCE"
PART = "_GRADLAB_PART"
_PORTS = "_GRADLAB_PORTS"


@dataclass(frozen=True)
class Ports:
    """The three private ports on 127.0.0.1, chosen anew at every start."""

    hub: int
    proxy: int
    portal: int

    @classmethod
    def choose(cls) -> Ports:
        """Ports that were free a moment ago; all three are held open until the last is known, so they differ."""
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
            for bound in sockets:
                bound.bind(("127.0.0.1", 0))
            return cls(*(bound.getsockname()[1] for bound in sockets))

    @classmethod
    def inherited(cls) -> Ports:
        """What ``gradlab up`` chose for this process, or new ones for a hub that was started by hand."""
        text = os.environ.get(_PORTS)
        return cls(*map(int, text.split(","))) if text else cls.choose()

    def environment(self) -> dict[str, str]:
        """The variable that :meth:`inherited` reads."""
        return {_PORTS: f"{self.hub},{self.proxy},{self.portal}"}


@dataclass(frozen=True)
class Addresses:
    """Where hub, proxy and portal listen, and where the others find them."""

    hub_listens: str
    hub: str
    proxy_api: str
    portal_listens: str
    portal: str

    @classmethod
    def of_trial(cls, ports: Ports) -> Addresses:
        """Ports of 127.0.0.1."""
        hub, proxy, portal = (f"http://127.0.0.1:{port}" for port in (ports.hub, ports.proxy, ports.portal))
        return cls(hub_listens=hub, hub=hub, proxy_api=proxy, portal_listens=portal, portal=portal)

    @classmethod
    def of_containers(cls, run_dir: Path) -> Addresses:
        """Names that Docker resolves, for containers of their own. Learners' networks have these names too, so what
        learners must not reach is no port but a socket in a folder they do not have: the proxy's API.
        """
        return cls(
            hub_listens="http://0.0.0.0:8081",
            hub="http://hub:8081",
            proxy_api=f"http+unix://{quote(str(run_dir / 'proxy.sock'), safe='')}",
            portal_listens="http://0.0.0.0:8082",
            portal="http://portal:8082",
        )

    @classmethod
    def of(cls, settings: Settings) -> Addresses:
        """Those of a server with these settings."""
        if settings.spawner == "docker":
            return cls.of_containers(settings.run_dir)
        return cls.of_trial(Ports.inherited())


def instance_of(settings: Settings) -> str:
    """A name for the server of this state folder; whatever has it in its environment was started by that server."""
    return hashlib.sha256(str(settings.state_dir.resolve()).encode()).hexdigest()[:16]


def settings_environment(settings: Settings) -> dict[str, str]:
    """All settings as environment variables, paths absolute, so that a child in any folder reads the same settings."""
    found = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        value = value.resolve() if isinstance(value, Path) else value
        found[PREFIX + name.upper()] = "" if value is None else str(value)
    return found


def server_environment(settings: Settings) -> dict[str, str]:
    """The environment of the server's own processes: ours, with exactly these settings and the instance's mark."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith((PREFIX, "JUPYTER", "CONFIGPROXY"))}
    # JupyterHub updates its database with the command `alembic`, which is beside our Python.
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return kept | settings_environment(settings) | {MARKER: instance_of(settings), "PATH": path}


def uid_of(settings: Settings, user_id: int) -> int:
    """The user id a learner's processes run as: one of their own where we are root, else ours.

    It is an offset that differs between state folders plus the hub's id of the user, so that two servers on one machine
    share no ids either.
    """
    if os.getuid() != 0:
        return os.getuid()
    first, last = (100_000, 2**31) if _highest_uid() >= 2**31 else (10_000, _highest_uid())
    return first + (int(instance_of(settings)[:8], 16) + user_id) % (last - first)


def _highest_uid() -> int:
    """The end of the user ids there are: in a container that maps only some, the rest cannot be used."""
    rows = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return max(inside + length for inside, _, length in rows) - 1
