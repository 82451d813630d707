"""The GPU monitor over HTTP, on a Unix socket in the folder where services meet; no learner's container has it.

What it answers:

    GET  /health    → {"state": "ok"}
    GET  /gpus      → the latest frame (gradlab.gpu.nvml)
    GET  /view      → GPU by learner, now (gradlab.gpu.view)
    GET  /history?since=EPOCH → the last hour (gradlab.gpu.history)
    GET  /usage     → GPU-seconds (gradlab.gpu.account)
    GET  /activity  → GPU use by container (gradlab.gpu.activity)
    GET  /over      → who is over the share of a GPU's memory (gradlab.gpu.monitor)
    POST /limits {"container": "<64hex>", "pid": 4711, "gpu": "GPU-…", "bytes": 1073741824 | null}
                    → {"hard": bool, "why": sentence}

Times are seconds since the epoch, memory is in bytes.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from gradlab.errors import LimitRefused
from gradlab.gpu.monitor import Monitor

__all__ = ["create_monitor_app"]


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

    @app.get("/view")
    def view() -> dict[str, Any]:
        return monitor.view()

    @app.get("/history")
    def history(since: float = 0.0) -> dict[str, Any]:
        return monitor.history(since)

    @app.get("/usage")
    def usage() -> dict[str, Any]:
        return monitor.usage()

    @app.get("/activity")
    def activity() -> dict[str, Any]:
        return monitor.activity()

    @app.get("/over")
    def over() -> list[dict[str, Any]]:
        return monitor.over()

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
