"""Frames of the GPU sampler as a test writes them: what is said is said, the rest is what an H200 in peace says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gradlab.gpu.account import Account
from gradlab.gpu.frames import unavailable
from gradlab.gpu.join import join
from gradlab.gpu.owners import Owner
from gradlab.gpu.view import view_of
from gradlab.roster import Roster, Server

__all__ = ["GIB", "MIB", "device", "frame", "gpu_view", "process", "silent"]

MIB, GIB = 1 << 20, 1 << 30


def process(pid: int, memory: int | None = GIB, *, sm: int | None = 0, **more: Any) -> dict[str, Any]:
    return {"pid": pid, "memory": memory, "kinds": "C", "sm": sm, "instance": None} | more


def device(uuid: str | None = "GPU-0", *processes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A device; what its processes say of their utilisation is what it says of who is busy."""
    return {
        "index": 0,
        "uuid": uuid,
        "name": "NVIDIA H200",
        "pci": "00000000:17:00.0",
        "state": "ok",
        "error": None,
        "problems": {},
        "driver_model": "not applicable on Linux",
        "utilisation": 42,
        "memory_utilisation": 7,
        "encoder_utilisation": 0,
        "decoder_utilisation": 0,
        "memory_used": 100 * GIB,
        "memory_total": 140 * GIB,
        "memory_reserved": GIB,
        "temperature": 35,
        "fan": None,
        "power": 98.5,
        "power_limit": 700.0,
        "energy": 12345.0,
        "clocks": {"graphics": 1980, "sm": 1980, "memory": 3201, "video": 1500},
        "max_clocks": {"graphics": 1980, "sm": 1980, "memory": 3201, "video": 1545},
        "performance_state": 0,
        "persistence": True,
        "compute_mode": "default",
        "throttle_reasons": [],
        "ecc": {"enabled": True, "corrected": 0, "uncorrected": 0},
        "events": [],
        "mig": None,
        "memory_limits": {"hard": False, "why": "Memory limits need NVIDIA's driver 615 or newer; this is 610.43."},
        "processes": list(processes),
        "busy": {str(one["pid"]): one["sm"] for one in processes if one["sm"]},
        "measured": True,
    } | more


def frame(*devices: dict[str, Any], at: float = 1000.0, **more: Any) -> dict[str, Any]:
    return unavailable("ok", "", at=at, available=True, driver_version="610.43", devices=list(devices)) | more


def silent(at: float, *devices: dict[str, Any], message: str = "No driver.") -> dict[str, Any]:
    """A frame of a driver that says nothing; ``devices`` are those of before, whose figures nobody knows."""
    unknown = dict.fromkeys(("utilisation", "memory_used", "temperature", "power", "processes"))
    known = [one | unknown | {"state": "silent", "busy": {}} for one in devices]
    return unavailable("silent", message, at=at, devices=known)


def gpu_view(found: dict[str, Any], roster: Roster | None = None, *, since: float = 0.0, **more: Any) -> dict[str, Any]:
    """What the monitor shows of this frame. The process 10 is the first server's of the roster, 20 the second's, …"""
    roster = roster or Roster()
    joined = join(found, dict(_owners(roster.servers)), roster)
    account = Account()
    account.take(joined, since or found["at"], sampled=found["available"])
    return view_of(found, joined, roster, account.standing, since=since or found["at"]) | more


def _owners(servers: Iterable[Server]) -> Iterable[tuple[int, Owner]]:
    for number, server in enumerate(servers, 1):
        yield 10 * number, Owner("learner", server, server.container)
