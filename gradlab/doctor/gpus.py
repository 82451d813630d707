"""GPUs of a hosted server: what the monitor sees, what the settings make of it, and how containers get them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradlab.doctor.engine import knows_cdi
from gradlab.doctor.finding import Finding, cards, unseen
from gradlab.gpu_mode import Mode
from gradlab.hub.gpus import share_statement, slots_of, why_empty

__all__ = ["cdi_devices", "default_runtime", "gpu_mode", "injection", "monitor", "toolkit"]

Reading = dict[str, Any]

_OLDEST_TOOLKIT = (1, 19)
# Docker tells what CDI knows since this version of its API.
_TELLS_DEVICES = (1, 50)
_REFRESH = "sudo nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml"


def monitor(reading: Reading, activity: dict[str, Any], gpus: Mode, runtime: str, info: dict[str, Any]) -> Finding:
    """What the GPU monitor answers; ``runtime`` is that of its container."""
    name, message = "GPU monitor", reading["message"]
    if not reading["available"]:
        return _without(message, gpus, runtime, info)
    value = cards(reading)
    faults = [f"GPU {device['index']}: {device['error']}" for device in reading["devices"] if device["error"]]
    if faults:
        return Finding(name, "failed", value, " ".join(faults))
    if message:
        return Finding(name, "warning", value, message)
    if not activity.get("ok", True):
        return Finding(name, "warning", f"{value}; who uses them is not known", activity["message"])
    return Finding(name, "ok", value)


def _without(message: str, gpus: Mode, runtime: str, info: dict[str, Any]) -> Finding:
    if runtime != "nvidia" and "nvidia" in info.get("Runtimes", {}):
        value = f"Docker has NVIDIA's runtime, but the container of the GPU monitor runs with {runtime or 'none'}"
        return Finding("GPU monitor", "failed", value, "Write GPU_RUNTIME=nvidia to .env and run: docker compose up -d")
    what, _, remedy = message.partition(". ")
    if gpus.kind == "none" and "No NVIDIA driver" in message:
        return Finding("GPU monitor", "ok", "answers; this machine has no GPU that it could see")
    return Finding("GPU monitor", "failed", f"{what.rstrip('.')}.", remedy or "See: docker compose logs gpu-monitor")


def gpu_mode(gpus: Mode, reading: Reading) -> Finding:
    """GRADLAB_GPUS against the devices there are."""
    name, setting = "GPU mode", f"GRADLAB_GPUS={gpus}"
    devices = reading["devices"]
    if gpus.kind == "none":
        if devices:
            remedy = "Set GRADLAB_GPUS in .env to exclusive, shared:N or mig, then: docker compose up -d"
            return Finding(name, "warning", f"{setting}, so nobody gets this machine's {_count(devices)}", remedy)
        return Finding(name, "ok", f"{setting}; everything runs on the CPU")
    slots = slots_of(gpus, devices)
    if not slots:
        why = why_empty(gpus, devices, reading["message"])
        return Finding(name, "failed", f"{setting}, and no learner can get a GPU", why)
    value = f"{setting}: {len(slots)} learners at a time, on {_count(devices)}"
    statement = share_statement(slots[0])
    if statement:
        return Finding(name, "warning", value, f"{statement} For hard limits set GRADLAB_GPUS=exclusive or mig.")
    return Finding(name, "ok", value)


def _count(devices: Sequence[Any]) -> str:
    return "1 GPU" if len(devices) == 1 else f"{len(devices)} GPUs"


def injection(gpus: Mode, reading: Reading, info: dict[str, Any], known: set[str] | None) -> Finding:
    """How Docker gives containers their GPUs. ``known`` are CDI's devices, None where they cannot be seen."""
    name = "GPUs in containers"
    slots = slots_of(gpus, reading["devices"])
    if gpus.kind == "none":
        return Finding(name, "ok", "none are given out (GRADLAB_GPUS=none)")
    if not knows_cdi(info):
        if "nvidia" not in info.get("Runtimes", {}):
            remedy = "Install the NVIDIA container toolkit and tell Docker of it, as docs/operators.md says."
            return Finding(name, "failed", "Docker has neither CDI nor the runtime nvidia", remedy)
        remedy = "Turn CDI on (docs/operators.md): GPUs that come by the runtime can get lost while containers run."
        return Finding(name, "warning", "by the runtime nvidia; CDI is off", remedy)
    if not slots:
        return unseen(name, "by CDI; without a GPU to give out, whether it knows that GPU is", "nvidia-ctk cdi list")
    if known is None:
        return unseen(name, "Docker has CDI; the devices it knows are", "nvidia-ctk cdi list")
    missing = sorted({slot.device for slot in slots} - {device.rpartition("=")[2] for device in known})
    if missing:
        value = f"CDI does not know {', '.join(missing)}: containers with these do not start"
        return Finding(name, "failed", value, f"Make its list anew, as after every change of MIG: {_REFRESH}")
    return Finding(name, "ok", f"by CDI, which knows {len(slots)} of {len(slots)} that are given out")


def cdi_devices(info: dict[str, Any], api: str, folders_visible: bool) -> set[str] | None:
    """The devices that CDI knows: from Docker where it tells, else from the files that it reads."""
    if tuple(map(int, api.split("."))) >= _TELLS_DEVICES:
        return {device["ID"] for device in info.get("DiscoveredDevices") or ()}
    if not folders_visible:
        return None
    found = set()
    for folder in info.get("CDISpecDirs") or ():
        for file in Path(folder).glob("*.*"):
            found |= set(re.findall(r"(?:GPU|MIG)-[0-9a-f-]+", file.read_text(encoding="utf-8", errors="replace")))
    return found


def default_runtime(info: dict[str, Any]) -> Finding:
    runtime = info.get("DefaultRuntime", "")
    if runtime == "nvidia":
        value = "nvidia: whatever is started from an image that asks for GPUs gets all of them, without being given one"
        remedy = 'Take "default-runtime" out of /etc/docker/daemon.json, then: sudo systemctl restart docker'
        return Finding("default runtime", "warning", value, remedy)
    return Finding("default runtime", "ok", runtime or "Docker's own")


def toolkit(run: Callable[[], str | None]) -> Finding:
    """The NVIDIA container toolkit; ``run`` gives what ``nvidia-ctk --version`` prints, None where it is not."""
    name = "container toolkit"
    text = run()
    if text is None:
        return unseen(name, "the version of NVIDIA's container toolkit is", "nvidia-ctk --version   (1.19 or newer)")
    match = re.search(r"version (\d+)\.(\d+)\S*", text)
    if match is None:
        return Finding(name, "warning", f"nvidia-ctk says {text.strip()!r}", "Install NVIDIA's container toolkit anew.")
    if (int(match[1]), int(match[2])) < _OLDEST_TOOLKIT:
        remedy = "Update nvidia-container-toolkit to 1.19 or newer: it mends ways out of containers."
        return Finding(name, "failed", match[0], remedy)
    return Finding(name, "ok", match[0])
