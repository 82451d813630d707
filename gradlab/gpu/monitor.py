"""The GPU monitor: a service of its own on a hosted server, which every container's processes are in sight of.

It runs in the host's PID namespace, because the driver hides processes from everybody else, and answers over HTTP on a
Unix socket in the folder where services meet:

    GET  /health    → {"state": "ok"}
    GET  /gpus      → a reading (gradlab.gpu.nvml.devices); each device has also "mig", its instances or None, and
                      "memory_limits": {"hard": bool, "why": sentence}
    GET  /activity  → who uses which GPU (gradlab.gpu.activity), sampled once a second
    POST /limits {"container": "<64hex>", "pid": 4711, "gpu": "GPU-…", "bytes": 1073741824 | null}
                    → {"hard": bool, "why": sentence}

The driver may hang for ever in any call. No answer waits for that: readings and samples are taken in threads of their
own, and what is answered meanwhile says from when it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from gradlab.errors import LimitRefused
from gradlab.gpu.activity import Activity
from gradlab.gpu.host import Host
from gradlab.gpu.nvml import Nvml
from gradlab.gpu.reader import Reader

__all__ = ["Monitor", "create_monitor_app"]

log = logging.getLogger(__name__)

_READING_SECONDS = 1.0
_LIMIT_SECONDS = 5.0
_AGAIN_SECONDS = 10.0
_CLOSE_SECONDS = 2.0


class Monitor:
    """Samples from :meth:`start` to :meth:`close`. Whatever the driver does, all else answers within seconds."""

    def __init__(
        self,
        nvml: Nvml,
        host: Host,
        *,
        every: float = 1.0,
        deadline: float = _LIMIT_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._nvml = nvml
        self._host = host
        self._every = every
        self._deadline = deadline
        self._clock = clock
        self._activity = Activity()
        self._account = threading.Lock()
        self._limiting = threading.Lock()
        self._ending = threading.Event()
        self._blind = ""
        self._fault = ""
        self._thread = threading.Thread(target=self._sample, name="gpu-samples", daemon=True)
        self.reading = Reader(nvml.read_all, deadline=_READING_SECONDS, clock=clock)

    def start(self) -> None:
        self._blind = self._host.why_blind()
        if self._blind:
            log.warning("%s", self._blind)
        self._thread.start()

    def close(self) -> None:
        """End, without waiting long for a driver that hangs."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)
        self._nvml.close()

    def activity(self) -> dict[str, Any]:
        """Who uses which GPU."""
        with self._account:
            found = self._activity.report(self._clock())
        problem = self._blind or self._fault
        return found | {"ok": False, "message": problem} if problem else found

    def limit(self, container: str, pid: int, gpu: str, size: int | None) -> None:
        """Limit the GPU memory of a container, or lift the limit; LimitRefused says why there is none."""
        group = self._host.group(container, pid)
        silent = f"The NVIDIA driver has not answered for {self._deadline:g} s, so no limit is known to be set."
        if not self._limiting.acquire(timeout=self._deadline):
            raise LimitRefused(silent)
        done = threading.Event()
        refused: list[Exception] = []

        def work() -> None:
            try:
                self._nvml.limit(gpu, group, size)
            except Exception as error:
                refused.append(error)
            finally:
                self._limiting.release()
                done.set()

        threading.Thread(target=work, name="gpu-limit", daemon=True).start()
        if not done.wait(self._deadline):
            raise LimitRefused(silent)
        if refused:
            raise refused[0]

    def _sample(self) -> None:
        pause = 0.0
        while not self._ending.wait(pause):
            began = time.monotonic()
            try:
                well = self._take()
                self._fault = ""
            except Exception as error:  # a thread that ends would be taken for GPUs that nobody uses
                well = False
                self._fault = f"Sampling the GPUs failed: {type(error).__name__}: {error}. The log has more."
                log.exception("Sampling the GPUs failed.")
            # Without a driver there is nothing to ask every second.
            pause = max(0.0, (self._every if well else _AGAIN_SECONDS * self._every) - (time.monotonic() - began))

    def _take(self) -> bool:
        sample = self._nvml.sample()
        spent = self._host.processor_seconds()
        with self._account:
            self._activity.take(sample, self._host.container, spent, self._clock())
        return not sample.message


class _Limit(BaseModel):
    container: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    pid: Annotated[int, Field(ge=1)]
    gpu: Annotated[str, Field(max_length=96)]
    bytes: Annotated[int, Field(ge=1, lt=2**63)] | None


def create_monitor_app(monitor: Monitor) -> FastAPI:
    """The service as an ASGI application."""
    app = FastAPI(title="Gradlab GPU monitor", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"state": "ok"}

    @app.get("/gpus")
    def gpus() -> dict[str, Any]:
        return monitor.reading()

    @app.get("/activity")
    def activity() -> dict[str, Any]:
        return monitor.activity()

    @app.post("/limits")
    def limits(wanted: _Limit) -> dict[str, Any]:
        try:
            monitor.limit(wanted.container, wanted.pid, wanted.gpu, wanted.bytes)
        except LimitRefused as error:
            return {"hard": False, "why": str(error)}
        if wanted.bytes is None:
            return {"hard": False, "why": "The limit is lifted."}
        return {"hard": True, "why": f"The driver keeps the container to {wanted.bytes / 2**30:.1f} GiB."}

    @app.exception_handler(Exception)
    async def failed(_request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, status_code=500)

    return app
