"""Learners who share a GPU and have more of its memory than their share, where no driver keeps them to it.

``GRADLAB_GPU_OVER_SHARE`` says what becomes of them: nothing (``ignore``), a notice (``tell``), or a notice and, if
that changes nothing, the end of their largest programs (``stop``), until the rest is within the share. What is ended
is named to the learner.

The GPU monitor says who is over, with the numbers that the processes have inside of the learner's container. A signal
is sent from within that container, as the learner's user: whatever goes wrong, it can hit nobody else's process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from gradlab.gpu_mode import parse_mode
from gradlab.settings import Settings
from gradlab.store.store import Store

__all__ = ["Shares", "largest"]

log = logging.getLogger(__name__)

_EVERY_SECONDS = 5.0
_MONITOR_SECONDS = 3.0
# A peak that is over by the next look harms nobody for long.
_LOOKS = 2
# From the notice to the first signal, and from a signal that may be caught to the one that may not.
_GRACE_SECONDS = 30.0
_KILL_SECONDS = 10.0
# A notice ends by itself if the hub should; one that still holds is written again.
_TOLD_SECONDS = 300.0
_STOPPED_SECONDS = 12 * 3600.0

Over = Mapping[str, Any]
Send = Callable[[str, int, str], Awaitable[None]]


@dataclass
class _Case:
    """One server that is over its share; ``signalled`` has by process when it was sent the first signal."""

    looks: int = 0
    told_at: float | None = None
    signalled: dict[int, float] = field(default_factory=dict)


def largest(over: Over) -> list[int]:
    """The processes to end, the largest first, so that the rest is within the share; never a container's first one."""
    memory, chosen = over["memory"], []
    for process in sorted(over["processes"], key=lambda one: -one["memory"]):
        if memory <= over["share"]:
            break
        if process["pid"] > 1:
            chosen.append(process["pid"])
            memory -= process["memory"]
    return chosen


class Shares:
    """``store`` is opened when there is somebody to be told; ``send`` sends a signal to a process in a container."""

    def __init__(
        self,
        settings: Settings,
        store: Callable[[], Store],
        send: Send,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = settings.gpu_over_share
        self._shared = parse_mode(settings.gpus).kind == "shared"
        self._socket = settings.gpu_socket
        self._store = store
        self._send = send
        self._clock = clock
        self._cases: dict[tuple[str, str], _Case] = {}

    async def keep(self) -> None:
        """Look every few seconds, for ever; not at all where there is nothing to be done."""
        while self._shared and self._policy != "ignore":
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                await self.look()
            except Exception as error:  # the database is locked, say; the next look is soon
                log.warning("Shares of GPU memory could not be looked after: %s: %s", type(error).__name__, error)

    async def look(self) -> None:
        """Ask who is over the share, and do what the policy says. A monitor that does not answer accuses nobody."""
        found = await self._ask()
        if found is None:
            return
        over = {(one["learner"], one["server"]): one for one in found}
        for key in [key for key in self._cases if key not in over]:
            self._close(key, self._cases.pop(key))
        for key, one in over.items():
            await self._treat(self._cases.setdefault(key, _Case()), one)

    async def _ask(self) -> Sequence[Over] | None:
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        try:
            async with httpx.AsyncClient(transport=transport, timeout=_MONITOR_SECONDS) as client:
                found: list[Over] = (await client.get("http://gpus/over")).raise_for_status().json()
                return found
        except (httpx.HTTPError, ValueError):
            return None

    async def _treat(self, case: _Case, over: Over) -> None:
        now = self._clock()
        case.looks += 1
        if case.looks < _LOOKS:
            return
        if case.told_at is None:
            case.told_at = now
            log.info("%s has %s, and is told.", over["learner"], _amounts(over))
        self._tell(over, case.told_at, now)
        if self._policy == "stop" and now - case.told_at >= _GRACE_SECONDS:
            await self._stop(case, over, now)

    async def _stop(self, case: _Case, over: Over, now: float) -> None:
        for pid in largest(over):
            first = case.signalled.setdefault(pid, now)
            if first == now:
                await self._signal(over, pid, "TERM", now)
            elif now - first >= _KILL_SECONDS:
                await self._signal(over, pid, "KILL", now)

    async def _signal(self, over: Over, pid: int, signal: str, now: float) -> None:
        log.info("%s has %s: SIG%s to process %d of the container.", over["learner"], _amounts(over), signal, pid)
        await self._send(over["container"], pid, signal)
        text = (
            f"A program of yours (process {pid}) was stopped: your programs had {_amounts(over)}. If it was a "
            "notebook's kernel, restart it; your files are as you left them."
        )
        until = now + _STOPPED_SECONDS
        self._store().notify(over["learner"], text, key=f"{_key(over['server'])} stopped", until=until, now=now)

    def _tell(self, over: Over, since: float, now: float) -> None:
        text = (
            f"Your programs have {_amounts(over)}; the rest of this GPU is for others. Delete tensors that you do not "
            "need and call torch.cuda.empty_cache(), or restart the kernel."
        )
        if self._policy == "stop":
            text += f" If they still have it in {_GRACE_SECONDS:.0f} seconds, the largest of them is stopped."
        self._store().notify(over["learner"], text, key=_key(over["server"]), until=now + _TOLD_SECONDS, now=since)

    def _close(self, key: tuple[str, str], case: _Case) -> None:
        if case.told_at is not None:
            self._store().withdraw(key[0], _key(key[1]))
            log.info("%s is within the share of GPU memory again.", key[0])


def _amounts(over: Over) -> str:
    has, share = (f"{over[name] / (1 << 30):.1f} GiB" for name in ("memory", "share"))
    return f"{has} of GPU memory where your share is {share}"


def _key(server: str) -> str:
    """The notice's: one a server."""
    return f"gpu share/{server}"
