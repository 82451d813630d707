"""The GPU monitor of a hosted server, as another service sees it: the methods of Monitor, asked over its socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from gradlab.gpu.frames import unavailable
from gradlab.gpu.join import Joined
from gradlab.gpu.view import view_of
from gradlab.roster import Roster

__all__ = ["RemoteMonitor"]

_SECONDS = 1.5


class RemoteMonitor:
    """A monitor that is down is an answer with a sentence, never an exception. Close it in the end."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        # A connection is used once: the service closes one after a while, also while it is being asked.
        once = httpx.HTTPTransport(uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0))
        self._http = httpx.Client(transport=once, base_url="http://gpus", timeout=_SECONDS)

    def reading(self) -> dict[str, Any]:
        """The latest frame."""
        found, why = self._ask("/gpus", "available", "message", "driver_version", "devices")
        return unavailable("silent", self._down(why)) if why else found

    def view(self) -> dict[str, Any]:
        """GPU by learner, now."""
        found, why = self._ask("/view", "available", "message", "devices", "servers", "queue")
        if not why:
            return found
        return view_of(unavailable("silent", self._down(why)), Joined(), Roster(), lambda _key: None, since=None)

    def history(self, since: float = 0.0) -> dict[str, Any]:
        """The last hour; empty if nobody answers."""
        found, why = self._ask(f"/history?since={since:.3f}", "from", "devices")
        return {"from": int(since), "step": 1, "count": 0, "devices": {}} if why else found

    def usage(self) -> dict[str, Any]:
        """GPU-seconds; ConnectionError if nobody answers, for there is no saying how many there were."""
        found, why = self._ask("/usage", "run", "rows")
        if why:
            raise ConnectionError(self._down(why))
        return found

    def close(self) -> None:
        self._http.close()

    def _ask(self, path: str, *keys: str) -> tuple[dict[str, Any], str]:
        """The answer, and why there is none of any use."""
        try:
            found = self._http.get(path).raise_for_status().json()
            if isinstance(found, dict) and set(keys) <= found.keys():
                return found, ""
            return {}, "it gives no reading"
        except (httpx.HTTPError, ValueError) as error:
            return {}, str(error) or type(error).__name__

    def _down(self, why: str) -> str:
        return (
            f"The GPU monitor does not answer at {self._socket} ({why}). See whether its service runs: "
            "docker compose ps gpu-monitor."
        )
