"""GPUs of this installation, leased to servers: the queue of gradlab.hub.queue, fed by what the GPU monitor sees.

Where the truth is: which devices there are, the monitor says (the hub has no NVML); who has which, the labels of
running containers say; who waits is kept in a file, so that nobody loses a place because the hub was started again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from gradlab.gpu_mode import parse_mode
from gradlab.hub.containers import SERVER, USER, Grant
from gradlab.hub.gpus import LABEL, Pool, Slot, access, share_statement, slots_of, why_empty
from gradlab.hub.queue import Queue
from gradlab.roster import Roster, Server, Waiter
from gradlab.settings import Settings

__all__ = ["Leases", "holder_of"]

log = logging.getLogger(__name__)

_MONITOR_SECONDS = 5.0
# Who was waiting when the hub ended may take a while to come back, and then finds the place kept.
_KEPT_SECONDS = 900.0
_WATCH_SECONDS = 1.0


def holder_of(user: str, server: str) -> str:
    """One server of one learner, as the queue knows it. Neither part can have a slash in it."""
    return f"{user}/{server}"


class Leases:
    """For one event loop, like the queue."""

    def __init__(self, settings: Settings) -> None:
        self.mode = parse_mode(settings.gpus)
        self._socket = settings.gpu_socket
        self._file = settings.state_dir / "gpu-queue.json"
        self._places, lasted = _read(self._file)
        self._pool = Pool((), problem=why_empty(self.mode, ()), lasted=lasted)
        self.queue = Queue(self._pool)
        # UUIDs of devices on which the driver enforces a container's limit on memory.
        self._hard: frozenset[str] = frozenset()
        # On such devices, the holders whose limit could not be set all the same.
        self._unlimited: set[str] = set()

    async def refresh(self) -> None:
        """Take over the devices that the monitor sees now.

        One that does not answer is no news of any device, and neither is a driver that does not answer the monitor.
        """
        if self.mode.kind == "none":
            return
        try:
            async with self._monitor() as client:
                reading = (await client.get("/gpus")).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            log.warning("The GPU monitor does not answer at %s: %s", self._socket, error)
            if self.queue.snapshot()["problem"]:
                self.queue.resize((), problem="The GPU monitor does not answer, so nobody knows which GPUs there are.")
            return
        if reading["state"] == "silent":
            log.warning("The GPU monitor has no news: %s", reading["message"])
            if self.queue.snapshot()["problem"]:
                self.queue.resize((), problem=why_empty(self.mode, (), reading["message"]))
            return
        devices = reading["devices"] if reading["available"] else []
        self._hard = frozenset(one["uuid"] for one in devices if one.get("memory_limits", {}).get("hard"))
        slots = slots_of(self.mode, devices)
        self.queue.resize(slots, problem="" if slots else why_empty(self.mode, devices, reading["message"]))

    def restore(self, containers: Iterable[Mapping[str, Any]]) -> None:
        """Rebuild the account from running containers, as Docker lists them."""
        found = [one for one in containers if one["Labels"].get(LABEL) and one["State"] in ("running", "created")]
        named = {holder_of(one["Labels"][USER], one["Labels"].get(SERVER, "")): one for one in found}
        self.queue.restore(
            {holder: one["Labels"][LABEL] for holder, one in named.items()},
            since={holder: float(one["Created"]) for holder, one in named.items()},
        )

    async def acquire(self, holder: str) -> Slot:
        """Wait for a GPU; PoolEmpty says why none can be had at all."""
        await self.refresh()
        since = self._places.pop(holder, None)
        slot = await self.queue.acquire(holder, since=since, told=lambda _: self._keep())
        self._keep()
        return slot

    def release(self, holder: str) -> None:
        """Called however a start or a server ended; not when the hub itself ends, so that places in line are kept.

        A place kept from before is not given up by that: it is called for everybody whom the last hub left waiting.
        """
        self._unlimited.discard(holder)
        self.queue.release(holder)
        self._keep()

    def keep_only(self, holders: Collection[str]) -> None:
        """Take back what others than these hold: their servers are gone without a word."""
        slots = self.queue.snapshot()["slots"]
        for holder in {one["holder"] for slot in slots for one in slot["holders"]} - set(holders):
            log.warning("%s has no server any more; its GPU is free again.", holder)
            self.release(holder)

    async def watch(self, holder: str) -> AsyncIterator[str]:
        """A sentence at every change, from before the holder has come into the line until there is a slot."""
        while self.queue.slot_of(holder) is None:
            async for waiting in self.queue.watch(holder):
                yield waiting.sentence
            if self.queue.slot_of(holder) is None:
                await self.queue.changed(_WATCH_SECONDS)

    def grant(self, holder: str, *, cdi: bool) -> Grant:
        """What Docker is asked for when this holder's server starts."""
        slot = self.queue.slot_of(holder)
        found = access(slot, cdi=cdi, enforced=slot is not None and slot.device in self._hard)
        return Grant(tuple(found.device_requests), dict(found.environment), dict(found.labels))

    def statement(self, holder: str) -> str:
        """What must be said of this holder's GPU, because nothing enforces it; ``""`` if there is nothing to say."""
        slot = self.queue.slot_of(holder)
        return "" if slot is None or slot.device in self._hard else share_statement(slot)

    def roster(self, servers: Iterable[Server]) -> Roster:
        """These servers, each with the GPU that it holds, and the line."""
        found = self.queue.snapshot()
        held = {one["holder"]: (slot, one["since"]) for slot in found["slots"] for one in slot["holders"]}
        return Roster(
            servers=tuple(self._with_gpu(server, held) for server in servers),
            line=tuple(self._waiter(one["holder"], one["since"]) for one in found["line"]),
            mode=str(self.mode),
            slots=sum(not slot["lost"] for slot in found["slots"]),
            free=found["free"],
            problem=found["problem"],
        )

    def _with_gpu(self, server: Server, held: Mapping[str, tuple[Mapping[str, Any], float]]) -> Server:
        holder = holder_of(*server.key)
        if holder not in held:
            return server
        slot, since = held[holder]
        device = slot["device"]
        return replace(
            server,
            device=device,
            share=slot["memory"] if slot["shares"] > 1 else None,
            hard=device in self._hard and holder not in self._unlimited,
            held_since=since,
        )

    def _waiter(self, holder: str, since: float) -> Waiter:
        learner, _, name = holder.partition("/")
        waiting = self.queue.waiting(holder)
        ahead, estimate = (0, None) if waiting is None else (waiting.ahead, waiting.seconds)
        return Waiter(learner, name, since, ahead + 1, estimate)

    async def limit(self, holder: str, container: str, pid: int) -> None:
        """Set the hard limit on the memory of this holder's container, where the driver has such limits.

        On the container's own group, so it has to run already; before its server answers, nobody uses the GPU.
        """
        slot = self.queue.slot_of(holder)
        if slot is None or not slot.limited or slot.memory is None or slot.device not in self._hard:
            return
        wanted = {"container": container, "pid": pid, "gpu": slot.device, "bytes": slot.memory}
        try:
            async with self._monitor() as client:
                answer = (await client.post("/limits", json=wanted)).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            answer = {"hard": False, "why": f"The GPU monitor does not answer: {error}"}
        if not answer["hard"]:
            self._unlimited.add(holder)
            log.error("The share of %s of GPU memory is not enforced. %s", holder, answer["why"])

    def _monitor(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        return httpx.AsyncClient(transport=transport, base_url="http://gpus", timeout=_MONITOR_SECONDS)

    def _keep(self) -> None:
        """Write down who waits and since when, and how long former holders kept theirs: estimates come from that."""
        waiting = {one["holder"]: one["since"] for one in self.queue.snapshot()["line"]}
        with contextlib.suppress(OSError):
            draft = self._file.with_name(f".{self._file.name}")
            draft.write_text(json.dumps({"line": self._places | waiting, "lasted": self._pool.lasted}))
            draft.replace(self._file)


def _read(path: Path) -> tuple[dict[str, float], list[float]]:
    """Who waited when the hub ended, unless that was long ago; and how long holdings lasted."""
    try:
        found = json.loads(path.read_text())
        recent = time.time() - path.stat().st_mtime < _KEPT_SECONDS
        line = {str(holder): float(since) for holder, since in found["line"].items()} if recent else {}
        return line, [float(seconds) for seconds in found["lasted"]]
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return {}, []
