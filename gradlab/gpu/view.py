"""What every screen shows of the GPUs: learner, GPU held, GPU used and the line for one, joined into plain data.

    {"at", "state", "available", "message", "simulated", "driver_version", "nvml_version", "cuda_version",
     "since",                              when the use of GPUs began to be known
     "mode", "slots", "free", "problem",   how they are given out
     "devices": [a frame's device without its processes, and
         "parts": [{"learner", "server", "lab", "instance", "processes", "memory", "utilisation"}],
         "machine": {"processes", "memory", "utilisation"},      processes that are no learner's
         "unattributed": bytes,            used by nobody who is known
         "holders": [{"learner", "server", "lab", "since"}]],
     "servers": [{"learner", "server", "lab", "device", "held_since", "busy_at", "idle", "processes", "memory", "peak",
                  "utilisation", "share", "over_share"}],       who holds a GPU or is on one
     "idle": [{"learner", "server", "lab", "device", "seconds"}],   the longest first
     "queue": [{"learner", "server", "since", "position", "estimate"}]}

Times are seconds since the epoch, memory is in bytes, utilisation in percent. None is what is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gradlab.gpu.account import Standing
from gradlab.gpu.join import DeviceUse, Joined, Part, ServerUse
from gradlab.roster import Roster, Server

__all__ = ["IDLE_SECONDS", "view_of"]

# Whoever reads or thinks for a minute is not told from somebody who does not need the GPU.
IDLE_SECONDS = 60.0
_INNER = frozenset(("processes", "busy", "measured"))
_DRIVER = ("at", "state", "available", "message", "simulated", "driver_version", "nvml_version", "cuda_version")


def view_of(
    frame: Mapping[str, Any],
    joined: Joined,
    roster: Roster,
    standing: Callable[[tuple[str, str]], Standing | None],
    *,
    since: float | None,
) -> dict[str, Any]:
    """The view of one frame. ``standing`` is the account's, ``since`` when the use began to be known."""
    known = bool(frame["available"])
    servers = [_server(use, standing(use.server.key), frame["at"], since, known) for use in joined.servers]
    idle = [one for one in servers if one["idle"] is not None and one["idle"] >= IDLE_SECONDS]
    idle.sort(key=lambda one: -one["idle"])
    return {name: frame[name] for name in _DRIVER} | {
        "since": since,
        "mode": roster.mode,
        "slots": roster.slots,
        "free": roster.free,
        "problem": roster.problem,
        "devices": [_device(use) for use in joined.devices],
        "servers": servers,
        "idle": [
            {name: one[name] for name in ("learner", "server", "lab", "device")} | {"seconds": one["idle"]}
            for one in idle
        ],
        "queue": [
            {
                "learner": waiter.learner,
                "server": waiter.name,
                "since": waiter.since,
                "position": waiter.position,
                "estimate": waiter.estimate,
            }
            for waiter in roster.line
        ],
    }


def _device(use: DeviceUse) -> dict[str, Any]:
    return {name: value for name, value in use.device.items() if name not in _INNER} | {
        "parts": [_part(part) for part in use.parts],
        "machine": {
            "processes": use.machine.processes,
            "memory": use.machine.memory,
            "utilisation": use.machine.utilisation,
        },
        "unattributed": use.unattributed,
        "holders": [_whose(server) | {"since": server.held_since} for server in use.holders],
    }


def _part(part: Part) -> dict[str, Any]:
    return _whose(part.server) | {
        "instance": part.instance,
        "processes": part.processes,
        "memory": part.memory,
        "utilisation": part.utilisation,
    }


def _server(use: ServerUse, standing: Standing | None, now: float, since: float | None, known: bool) -> dict[str, Any]:
    server = use.server
    busy_at = None if standing is None else standing.busy_at
    return _whose(server) | {
        "device": server.device or (use.parts[0].device if use.parts else None),
        "held_since": server.held_since,
        "busy_at": busy_at,
        "idle": _idle(use, standing, now, since) if known else None,
        "processes": use.processes if known else None,
        "memory": use.memory if known else None,
        "peak": 0 if standing is None else standing.peak,
        "utilisation": use.utilisation if known else None,
        "share": server.share,
        "over_share": use.over_share,
    }


def _idle(use: ServerUse, standing: Standing | None, now: float, since: float | None) -> float | None:
    """Seconds since it used a GPU, as far as that is known; None where the hardware reports no use."""
    if standing is None or since is None or use.utilisation is None:
        return None
    signs = (since, standing.known_at, use.server.held_since, standing.busy_at)
    return max(0.0, now - max(sign for sign in signs if sign is not None))


def _whose(server: Server) -> dict[str, Any]:
    return {"learner": server.learner, "server": server.name, "lab": server.lab}
