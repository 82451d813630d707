"""Every learner's server in a container of its own: DockerSpawner, with what a class on one machine needs beside it.

What is overridden, and why:

* ``start`` takes a network first, and returns only when the server listens, looking every few hundredths of a second:
  JupyterHub itself would wait for 0.2, 0.4, 0.8, … s between two looks.
* ``poll`` and ``stop`` keep a container's last output before they remove it, and the reason for its end, which the
  learner reads where JupyterHub offers to start the server again.
* ``run_pre_spawn_hook`` is where a learner waits for a GPU: no time limit of JupyterHub counts there.
* ``run_post_stop_hook`` is called however a server ended, so that is where network and GPU go back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from docker.errors import DockerException, ImageNotFound, NotFound
from dockerspawner import DockerSpawner
from jupyterhub.spawner import SpawnException
from traitlets import Any as AnyTrait

from gradlab.errors import PoolEmpty
from gradlab.hub.containers import HOME, TEMPLATES, Grant, create_options, host_options, labels
from gradlab.hub.delivery import history
from gradlab.hub.environment import Addresses
from gradlab.hub.fleet import Fleet
from gradlab.hub.leases import holder_of
from gradlab.settings import Settings

__all__ = ["ContainerSpawner"]

_LOOK_SECONDS = 0.02
_ALIVE_EVERY = 25  # looks
_STOP_SECONDS = 5

_WITHOUT_OPTIONS = "<p>You can start your server without that; it can be started anew later. Nothing in it is lost.</p>"

_LAB_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class ContainerSpawner(DockerSpawner):  # type: ignore[misc]
    """Starts ``jupyterhub-singleuser`` in a container made as gradlab.hub.containers says."""

    settings: Settings = AnyTrait(help="gradlab.settings.Settings, set by gradlab.hub.hosting.").tag(config=True)

    _network = ""
    _delivered = ""
    _asked_to_stop = False
    _making: asyncio.Future[tuple[str, int]] | None = None

    @property
    def fleet(self) -> Fleet:
        return Fleet.of(self.settings)

    @property
    def key(self) -> tuple[str, str]:
        """Whose server this is, and its name."""
        return self.user.name, self.name

    @property
    def executor(self) -> Any:
        return self.fleet.executor

    @property
    def client(self) -> Any:
        return self.fleet.client

    @property
    def holder(self) -> str:
        """This server in the account of GPUs."""
        return holder_of(*self.key)

    @property
    def grant(self) -> Grant:
        return self.fleet.leases.grant(self.holder, cdi=self.fleet.cdi)

    @property
    def lab(self) -> str:
        """The lab that the server was opened for, or ``""``."""
        return str(self.user_options.get("lab", ""))

    @property
    def wants_gpu(self) -> bool:
        return bool(self.user_options.get("gpu"))

    def options_from_query(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """What an address may ask for: ``opt-lab`` and ``opt-gpu``; anything else is nobody's business."""
        options: dict[str, Any] = {}
        if query.get("lab"):
            options["lab"] = query["lab"][0]
        if query.get("gpu"):
            options["gpu"] = query["gpu"][0] in ("1", "true", "yes")
        return options

    async def get_options_form(self) -> str:
        """A form after a refusal, for above one JupyterHub says why. Without one it starts a server without options, so
        without the GPU that was asked for, and says not a word."""
        return _WITHOUT_OPTIONS if self.key in self.fleet.refused else ""

    def run_options_from_form(self, _form: dict[str, list[str]]) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._network = state.get("network", "")
        self.fleet.hold(self)

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state()
        if self._network:
            state["network"] = self._network
        return state

    def clear_state(self) -> None:
        super().clear_state()
        self._network = ""

    def get_env(self) -> dict[str, str]:
        env: dict[str, str] = super().get_env()
        return (
            env
            | self.grant.environment
            | {
                "GRADLAB_PORTAL_URL": f"{Addresses.of(self.settings).portal}/services/portal",
                "GRADLAB_TEMPLATES": TEMPLATES,
                "GRADLAB_DELIVERED": self._delivered,
                "HOME": HOME,
                "USER": self.user.name,
                "LOGNAME": self.user.name,
            }
        )

    # -- start -------------------------------------------------------------------------------------------------------

    async def run_pre_spawn_hook(self) -> None:
        """JupyterHub calls this before ``start``, and without its time limit."""
        self.fleet.refused.add(self.key)
        _check_options(self.user_options)
        self.fleet.hold(self)
        await self.fleet.ready()
        self.fleet.endings.forget(*self.key)
        self._asked_to_stop = False
        if self.wants_gpu:
            try:
                slot = await self.fleet.leases.acquire(self.holder)
            except PoolEmpty as error:
                raise SpawnException(str(error), reason="capacity", status_code=503) from None
            self.log.info("%s gets the GPU %s", self.holder, slot.id)
        self.fleet.refused.discard(self.key)

    async def start(self) -> tuple[str, int]:
        try:
            self._delivered = json.dumps(await self.fleet.run(history, self.settings, self.user.name))
        except Exception:  # that must not keep a learner out
            self.log.exception("Labs cannot be delivered to %s.", self.user.name)
        try:
            # A thread cannot be cancelled: whoever gives this start up (run_post_stop_hook) waits for its end.
            self._making = asyncio.ensure_future(self._make())
            ip, port = await asyncio.shield(self._making)
        except ImageNotFound:
            raise SpawnException(
                f"The image {self.image} of learners' servers is not on this machine. "
                "Your instructor can make it: make images.",
                reason="image",
            ) from None
        except (DockerException, OSError) as error:  # one that does not answer is an OSError
            raise SpawnException(f"Docker could not start your server: {error}", reason="docker") from error
        if self.fleet.leases.queue.slot_of(self.holder) is not None:
            state = (await self.docker("inspect_container", self.container_id))["State"]
            await self.fleet.leases.limit(self.holder, self.container_id, state["Pid"])
        self.fleet.started(self.key, self.lab, self.container_id)
        await self._wait_listening(ip, port)
        return ip, port

    async def _make(self) -> tuple[str, int]:
        """Take a network, and have DockerSpawner start the container in it."""
        self._network = self.network_name = await self.fleet.run(self.fleet.networks.take)
        grant = self.grant
        self.extra_create_kwargs = create_options(
            labels(self.settings.installation, self.user.name, self.name, self.lab, grant)
        )
        self.extra_host_config = host_options(self.settings, grant)
        place: tuple[str, int] = await super().start()
        return place

    async def _wait_listening(self, ip: str, port: int) -> None:
        """Return when the server takes connections; SpawnException with the reason if it ends instead."""
        looks = 0
        while not await _listens(ip, port):
            looks += 1
            if looks % _ALIVE_EVERY == 0 and await self.poll() is not None:
                why = self.fleet.endings.of(*self.key)
                raise SpawnException(f"Your server ended while it started. {why}", reason="ended")
            await asyncio.sleep(_LOOK_SECONDS)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        if self.wants_gpu:
            async for sentence in self.fleet.leases.watch(self.holder):
                yield {"progress": 5, "message": sentence}
            if statement := self.fleet.leases.statement(self.holder):
                yield {"progress": 20, "message": statement}
        yield {"progress": 30, "message": "Starting your container …"}

    # -- end ---------------------------------------------------------------------------------------------------------

    async def poll(self) -> int | str | None:
        """None while it runs; else why it ended. A container that has ended is removed, its output kept."""
        await self.fleet.ready()
        found = await self.get_object()
        if found is None:
            return 0
        state = found["State"]
        if state["Running"]:
            return None
        await self._bury()
        return f"exit status {state['ExitCode']}"

    async def stop(self, now: bool = False) -> None:
        """SIGTERM, so that kernels end and state is saved, then SIGKILL; the container is removed, its output kept."""
        self._asked_to_stop = True
        try:
            await self.docker("stop", self.container_id, timeout=0 if now else _STOP_SECONDS)
        except NotFound:
            self.log.info("The container of %s is gone already.", self.user.name)
        await self._bury()
        self.clear_state_but_network()

    def clear_state_but_network(self) -> None:
        """The network goes back in ``run_post_stop_hook``, which needs its name."""
        network = self._network
        self.clear_state()
        self._network = network

    async def _bury(self) -> None:
        why = await self.fleet.bury(self.container_id)
        if why and not self._asked_to_stop:
            self.log.warning("The server of %s ended. %s", self.user.name, why)
            self.fleet.endings.remember(*self.key, why)
        self.object_id = ""

    async def run_post_stop_hook(self) -> None:
        """However it ended, failed or cancelled: nothing of it stays behind.

        If Docker fails meanwhile, the fleet's next sweep takes back what is held without a container.
        """
        try:
            if self._making is not None:
                with contextlib.suppress(Exception):  # whoever waited for it has been told
                    await asyncio.shield(self._making)
            if self.object_name and await self.get_object() is not None:
                await self._bury()
            if self._network:
                await self.fleet.run(self.fleet.networks.give_back, self._network)
            self.fleet.leases.release(self.holder)
        finally:
            self._network, self._making = "", None
            self.fleet.let_go(self)
            # JupyterHub would take them over for the next start, and a GPU is to be asked for each time.
            self.orm_spawner.user_options = {}


def _check_options(options: dict[str, Any]) -> None:
    """SpawnException if they are not what a start may be asked for. By the API anything can come."""
    lab, gpu = options.get("lab", ""), options.get("gpu", False)
    if lab and not (isinstance(lab, str) and _LAB_NAME.fullmatch(lab)):
        raise SpawnException(
            f"lab={lab!r:.80} names no lab. Lab names are short and of a-z, 0-9 and hyphens, such as tensors.",
            reason="options",
            status_code=400,
        )
    if not isinstance(gpu, bool):
        raise SpawnException(
            f"gpu={gpu!r:.80} is neither true nor false. A server is asked for with a GPU or without one.",
            reason="options",
            status_code=400,
        )


async def _listens(ip: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(ip, port), 1.0)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
