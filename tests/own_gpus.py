"""What the portal answers a learner's kernel about its GPUs (``GET api/gpu/mine``)."""

from __future__ import annotations

from typing import Any

__all__ = ["GIB", "answer", "held"]

GIB = 1 << 30


def held(**fields: Any) -> dict[str, Any]:
    """A GPU that the learner holds and shares with others."""
    usual: dict[str, Any] = {
        "index": 0,
        "name": "NVIDIA H200",
        "uuid": "GPU-0",
        "driver_model": "not applicable on Linux",
        "utilisation": 42,
        "memory_used": 12 * GIB,
        "memory_total": 140 * GIB,
        "temperature": 35,
        "power": 98.4,
        "mine": {"memory": 3 * GIB, "utilisation": 12, "processes": 2},
        "others": {"memory": 9 * GIB, "utilisation": 30},
        "share": None,
    }
    return usual | fields


def answer(*devices: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The whole answer; without devices, of a machine that has GPUs, none of them this learner's."""
    usual: dict[str, Any] = {
        "state": "ok",
        "available": True,
        "message": "",
        "simulated": False,
        "driver_version": "610.43.02",
        "devices": list(devices),
        "waiting": None,
        "idle": 3.0,
        "usage": {"held": 4320.0, "busy": 850.0, "peak": 5 * GIB},
    }
    return usual | fields
