"""Readings of the GPU monitor, for a process that has no GPU of its own: a source for gradlab.gpu.reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

__all__ = ["RemoteGpus"]

# Less than the patience of the portal's Reader, which would blame the driver.
_SECONDS = 1.2


class RemoteGpus:
    """Call it for a reading; a monitor that is down is a reading with a sentence. Close it in the end."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        # A connection is used once: the service closes one after a while, also while it is being asked.
        once = httpx.HTTPTransport(uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0))
        self._http = httpx.Client(transport=once, timeout=_SECONDS)

    def __call__(self) -> dict[str, Any]:
        try:
            reading = self._http.get("http://gpus/gpus").raise_for_status().json()
            if isinstance(reading, dict) and {"available", "message", "driver_version", "devices"} <= reading.keys():
                return reading
            why = "it gives no reading"
        except (httpx.HTTPError, ValueError) as error:
            why = str(error) or type(error).__name__
        return {
            "available": False,
            "message": f"The GPU monitor does not answer at {self._socket} ({why}). See whether its service runs: "
            "docker compose ps gpu-monitor.",
            "driver_version": None,
            "devices": [],
        }

    def close(self) -> None:
        self._http.close()
