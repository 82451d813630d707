"""All learners' containers of this installation, as the hub sees them: one object for all spawners of the process.

What it remembers it has from Docker: which containers run, in which network, with which GPU. So a hub that was killed
knows after :meth:`Fleet.ready` what it knew before, and what it finds that no server belongs to is removed.

Docker's client blocks. DockerSpawner has one thread for all calls, in which one slow call keeps every learner waiting;
here there are several.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import docker
from docker.errors import APIError, NotFound
from requests.exceptions import RequestException

from gradlab.hub.containers import INSTALLATION, LAB, ROLE, SERVER, USER
from gradlab.hub.delivery import store_of
from gradlab.hub.endings import Endings, reason
from gradlab.hub.leases import Leases, holder_of
from gradlab.hub.networks import SERVICES, Networks
from gradlab.hub.shares import Shares
from gradlab.hub.telling import Registry
from gradlab.roster import Server
from gradlab.settings import Settings

__all__ = ["Fleet", "Held"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 8
_REQUEST_SECONDS = 60
_LAST_LINES = 1000
_SWEEP_SECONDS = 300.0
_DEVICES_SECONDS = 15.0
_EVENTS_AGAIN_SECONDS = 2.0


class Held(Protocol):
    """What the fleet needs of a spawner that has, or is about to have, a container."""

    @property
    def key(self) -> tuple[str, str]: ...

    @property
    def ready(self) -> bool: ...

    async def poll_and_notify(self) -> Any: ...


class Fleet:
    """Containers and networks of learners' servers. One an event loop; made by :meth:`Fleet.of`."""

    executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client = docker.from_env(timeout=_REQUEST_SECONDS).api
        self.endings = Endings(settings.state_dir / "logs" / "servers")
        self.networks = Networks(
            self.client, settings.installation, settings.learner_networks, internet=settings.learner_internet
        )
        self.leases = Leases(settings)
        self.registry = Registry(settings.roster_file, self.leases.roster)
        self.leases.queue.listen(self.registry.changed)
        self.shares = Shares(settings, functools.partial(store_of, settings), self.signal)
        self.cdi = False
        # Whose last start was refused; JupyterHub makes a new spawner after that.
        self.refused: set[tuple[str, str]] = set()
        self._spawners: dict[tuple[str, str], Held] = {}
        self._ready: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    @functools.cache
    def of(cls, settings: Settings) -> Fleet:
        """The fleet of this process."""
        return cls(settings)

    async def run(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call something that blocks, in a thread."""
        return await asyncio.wrap_future(self.executor.submit(call, *arguments, **named))

    # -- who has a container -----------------------------------------------------------------------------------------

    def hold(self, spawner: Held) -> None:
        """This spawner's container, if there is one, is not to be swept."""
        self._spawners[spawner.key] = spawner

    def let_go(self, spawner: Held) -> None:
        if self._spawners.get(spawner.key) is spawner:
            del self._spawners[spawner.key]

    def started(self, key: tuple[str, str], lab: str, container: str) -> None:
        """This server runs in this container, from now on."""
        learner, name = key
        self.registry.started(Server(learner, name, lab, container, since=time.time()))

    # -- start -------------------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Return when what an earlier hub left is known: networks, and servers nobody holds any more are gone."""
        if self._ready is None or (self._ready.done() and self._ready.exception() is not None):
            self._ready = asyncio.create_task(self._take_over())
        await asyncio.shield(self._ready)

    async def _take_over(self) -> None:
        self.cdi = bool((await self.run(self.client.info)).get("CDISpecDirs"))
        servers = await self._servers()
        await self.run(self.networks.recover, [network for one in servers for network in _networks(one)])
        self.leases.restore(servers)
        await self.leases.refresh()
        self.registry.recover(_server(one) for one in servers if one["State"] == "running")
        await self.sweep()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(loop,), name="docker-events", daemon=True).start()
        self._later(self._keep_swept())
        self._later(self._keep_devices())
        self._later(self.shares.keep())
        self._later(self.run(self.networks.refill))

    async def sweep(self) -> int:
        """Remove servers' containers that no spawner holds, free what no server has; returns how many those were."""
        left = [one for one in await self._servers() if _key(one) not in self._spawners]
        for container in left:
            log.warning("Removing the container %s, which no server belongs to.", _name(container))
            await self.bury(container["Id"])
            for network in _networks(container):
                await self.run(self.networks.give_back, network)
        told = self.registry.places
        servers = await self._servers()
        self.registry.ended(*told - {one["Id"] for one in servers if one["State"] == "running"})
        self.leases.keep_only({holder_of(*key) for key in (*map(_key, servers), *self._spawners)})
        return len(left)

    async def _keep_swept(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            with contextlib.suppress(docker.errors.DockerException, RequestException):
                await self.sweep()

    async def _keep_devices(self) -> None:
        """Devices come and go: cards that are lost and found, slices that are laid out anew."""
        while self.leases.mode.kind != "none":
            await asyncio.sleep(_DEVICES_SECONDS)
            await self.leases.refresh()

    async def _servers(self) -> list[dict[str, Any]]:
        labels = [f"{ROLE}=server", f"{INSTALLATION}={self.settings.installation}"]
        found: list[dict[str, Any]] = await self.run(self.client.containers, all=True, filters={"label": labels})
        return found

    async def signal(self, container: str, pid: int, name: str) -> None:
        """Send a signal to a process by the number it has in the container, from within, as the learner's user."""
        await self.run(self._signal, container, pid, name)

    def _signal(self, container: str, pid: int, name: str) -> None:
        with contextlib.suppress(NotFound):
            marks = self.client.inspect_container(container)["Config"]["Labels"]
            if (marks.get(ROLE), marks.get(INSTALLATION)) != ("server", self.settings.installation):
                log.error("The container %s is no learner's of this server; nothing is stopped in it.", container[:12])
                return
            command = ["sh", "-c", f"kill -{name} {pid:d}"]
            self.client.exec_start(self.client.exec_create(container, command, user="lab")["Id"], detach=True)

    # -- end ---------------------------------------------------------------------------------------------------------

    async def bury(self, container: str) -> str:
        """Keep a container's last output, remove it, and say why it ended; ``""`` if it still ran or is gone."""
        why = await self.run(self._bury, container)
        self.registry.ended(container)
        return why

    def _bury(self, container: str) -> str:
        try:
            found = self.client.inspect_container(container)
            ended = not found["State"]["Running"]
            why = reason(found["State"], self.settings.learner_memory_mb) if ended else ""
            output = self.client.logs(container, tail=_LAST_LINES)
            self.endings.write(found["Name"].lstrip("/"), why or "Stopped.", output)
        except NotFound:
            return ""
        with contextlib.suppress(NotFound):
            try:
                self.client.remove_container(container, force=True, v=True)
            except APIError as error:
                if error.status_code != 409:  # it is being removed already
                    raise
        return why

    # -- what happens meanwhile --------------------------------------------------------------------------------------

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Docker tells at once what JupyterHub would find out half a minute later; in a thread of its own."""
        filters = {
            "type": "container",
            "event": ["die", "start"],
            "label": f"{INSTALLATION}={self.settings.installation}",
        }
        again = threading.Event()
        while True:
            try:
                with contextlib.closing(docker.from_env(timeout=None).api) as client:
                    for event in client.events(decode=True, filters=filters):
                        loop.call_soon_threadsafe(self._heard, event)
            except RuntimeError:
                return  # the loop is closed: the hub ends
            except Exception as error:
                log.warning("Docker's events cannot be read (%s); trying again.", error)
            again.wait(_EVENTS_AGAIN_SECONDS)

    def _heard(self, event: dict[str, Any]) -> None:
        marks = event["Actor"]["Attributes"]
        role = marks.get(ROLE)
        if event["Action"] == "start" and role in SERVICES:
            self._later(self.run(self.networks.connect))
        if event["Action"] == "die" and role == "server":
            self.registry.ended(event["Actor"]["ID"])
            spawner = self._spawners.get((marks.get(USER, ""), marks.get(SERVER, "")))
            if spawner is not None and spawner.ready:  # not one that is starting or stopping: those look for themselves
                self._later(spawner.poll_and_notify())

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Looking after learners' containers failed: %s", error, exc_info=error)


def _key(container: dict[str, Any]) -> tuple[str, str]:
    """As a spawner's ``key``."""
    return container["Labels"].get(USER, ""), container["Labels"].get(SERVER, "")


def _server(container: dict[str, Any]) -> Server:
    learner, name = _key(container)
    since = float(container["Created"])
    return Server(learner, name, container["Labels"].get(LAB, ""), container["Id"], since=since)


def _networks(container: dict[str, Any]) -> list[str]:
    return list(container["NetworkSettings"]["Networks"])


def _name(container: dict[str, Any]) -> str:
    return str(container["Names"][0]).lstrip("/") if container["Names"] else str(container["Id"])[:12]
