"""Plausible states of a simulated driver (:mod:`labkit.nvsim` says what is in one), drawn at random."""

from __future__ import annotations

import random
from typing import Any

__all__ = ["random_state"]

# Name, total and reserved MiB, power limit in W, highest SM and memory clock in MHz, and whether it can be MIG.
_MODELS = (
    ("NVIDIA H200", 143771, 614, 700, 1980, 3201, True),
    ("NVIDIA H100 80GB HBM3", 81559, 551, 700, 1980, 2619, True),
    ("NVIDIA L40S", 46068, 609, 350, 2520, 9001, False),
    ("NVIDIA GeForce RTX 4080 SUPER", 16376, 331, 320, 3105, 11501, False),
    ("NVIDIA GeForce RTX 2080 SUPER", 8192, 205, 250, 2160, 7751, False),
)
# As nvidia-smi has them: compute, graphics, or both in one process.
_TYPES = ("C", "C", "C", "G", "C+G")
_DRIVERS = (
    ("570.211.01", 12080),
    ("580.173.02", 13000),
    ("590.48.01", 13010),
    ("595.71.05", 13020),
    ("610.43.02", 13030),
    ("615.71.09", 13040),
)


def random_state(
    rng: random.Random, *, gpus: int | None = None, windows: bool = False, moments: int = 0
) -> dict[str, Any]:
    """A driver in a plausible state: one to four GPUs with processes, or the number given, each with ``moments``.

    Under ``windows`` the GPUs have a driver model and no process's memory is known; else there is no driver model.
    """
    version, cuda = rng.choice(_DRIVERS)
    count = rng.randint(1, 4) if gpus is None else gpus
    devices = [_random_device(rng, index, windows) for index in range(count)]
    for device in devices:
        if moments:
            device["moments"] = [{"utilisation": _random_rates(rng, device["processes"])} for _ in range(moments)]
    return {
        "driver_version": version.rsplit(".", 1)[0] if windows else version,
        "nvml_version": f"{cuda // 1000}.{version}",
        "cuda_version": cuda,
        "devices": devices,
    }


def _random_device(rng: random.Random, index: int, windows: bool) -> dict[str, Any]:
    name, total, reserved, watts, sm_clock, memory_clock, mig = rng.choice(_MODELS)
    processes = _random_processes(rng, total)
    known = sum(process["memory"] for process in processes)
    clocks = {"graphics": sm_clock, "sm": sm_clock, "memory": memory_clock, "video": sm_clock - 180}
    if windows:
        processes = [process | {"memory": None} for process in processes]
    return {
        "name": name,
        "uuid": f"GPU-{rng.getrandbits(32):08x}-{rng.getrandbits(16):04x}-4000-8000-{rng.getrandbits(48):012x}",
        "pci_bus_id": f"00000000:{16 * index + rng.randint(1, 15):02X}:00.0",
        "memory": {"total": total << 20, "reserved": reserved << 20, "used": known + (rng.randint(0, 900) << 16)},
        "utilisation": _random_rates(rng, processes),
        "temperature": rng.randint(24, 84),
        "power": rng.randint(watts * 100, watts * 1000),
        "power_limit": watts * 1000,
        "clocks": {kind: rng.randint(210, clock) for kind, clock in clocks.items()},
        "max_clocks": clocks,
        "performance_state": rng.choice((0, 2, 8)),
        "persistence_mode": None if windows else rng.randint(0, 1),
        "compute_mode": 0,
        "mig_mode": [0, 0] if mig and not windows else None,
        "driver_model": [rng.choice((0, 2))] * 2 if windows else None,
        "processes": processes,
        "process_samples": [],
    }


def _random_processes(rng: random.Random, total: int) -> list[dict[str, Any]]:
    """Up to five processes that use three quarters of ``total`` MiB at most."""
    pids = rng.sample(range(1_000, 4_000_000), rng.randint(0, 5))
    return [{"pid": pid, "memory": rng.randint(200, total * 3 // 20) << 20, "type": rng.choice(_TYPES)} for pid in pids]


def _random_rates(rng: random.Random, processes: list[dict[str, Any]]) -> dict[str, int]:
    busy = rng.randint(1, 100) if processes else 0
    return {"gpu": busy, "memory": rng.randint(0, busy)}
