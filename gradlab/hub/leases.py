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
from pathlib import Path
from typing import Any

import httpx

from gradlab.gpu_mode import parse_mode
from gradlab.hub.containers import SERVER, USER, Grant
from gradlab.hub.gpus import LABEL, Pool, Slot, access, slots_of, why_empty
from gradlab.hub.queue import Queue
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
        self.queue = Queue(Pool((), problem=why_empty(self.mode, ())))
        self._socket = settings.run_dir / "gpus.sock"
        self._file = settings.state_dir / "gpu-queue.json"
        self._places = _read(self._file)

    async def refresh(self) -> None:
        """Take over the devices that the monitor sees now. One that does not answer is no news of any device."""
        if self.mode.kind == "none":
            return
        try:
            transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
            async with httpx.AsyncClient(transport=transport, timeout=_MONITOR_SECONDS) as client:
                reading = (await client.get("http://gpus/gpus")).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            log.warning("The GPU monitor does not answer at %s: %s", self._socket, error)
            if self.queue.snapshot()["problem"]:
                self.queue.resize((), problem="The GPU monitor does not answer, so nobody knows which GPUs there are.")
            return
        devices = reading["devices"] if reading["available"] else []
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
        found = access(self.queue.slot_of(holder), cdi=cdi)
        return Grant(tuple(found.device_requests), dict(found.environment), dict(found.labels))

    def _keep(self) -> None:
        """Write down who waits, and since when."""
        waiting = {one["holder"]: one["since"] for one in self.queue.snapshot()["line"]}
        with contextlib.suppress(OSError):
            draft = self._file.with_name(f".{self._file.name}")
            draft.write_text(json.dumps(self._places | waiting))
            draft.replace(self._file)


def _read(path: Path) -> dict[str, float]:
    """Who waited when the hub ended, unless that was long ago."""
    with contextlib.suppress(OSError, ValueError):
        if time.time() - path.stat().st_mtime < _KEPT_SECONDS:
            return {str(holder): float(since) for holder, since in json.loads(path.read_text()).items()}
    return {}
