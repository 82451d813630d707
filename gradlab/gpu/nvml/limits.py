"""Hard limits on the GPU memory of a container, for GPUs that several learners share.

NVIDIA's driver from r615 on keeps a cgroup to a size, through the kernel's controller ``dmem`` (Linux 6.14) or through
a backend of its own. A program in the container then takes the limit for the whole memory of the GPU. None of it is
supposed: what is missing is looked for, and said.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml

from gradlab.errors import LimitRefused
from gradlab.gpu.nvml.calls import FAILURES, of_one, reported

__all__ = ["Target", "capability", "set_limit"]

_SET = "nvmlDeviceSetMemoryLimits_v1"


@dataclass(frozen=True)
class Target:
    """A GPU; ``pci`` is its address, as NVML has it, ``divided`` whether it is in MIG mode."""

    handle: Any
    divided: bool = False
    pci: str = ""


def capability(target: Target, cgroups: Path) -> dict[str, Any]:
    """``{"hard": bool, "why": sentence}``: whether a limit can be set on this GPU, and if not, what is missing."""
    why = _missing(target, cgroups)
    return {"hard": not why, "why": why or "The driver keeps each container to its limit."}


def set_limit(target: Target, group: Path, size: int | None) -> None:
    """Limit what the processes of this cgroup may have of the GPU, in bytes; None lifts the limit."""
    limits = pynvml.c_nvmlSetMemoryLimits_v1_t()
    limits.nameSpace = str(group).encode()
    # A soft limit reserves memory, and the reservation would outlive the container.
    limits.softLimit = 0
    limits.hardLimit = pynvml.NVML_DEVICE_MEMORY_LIMIT_MAX if size is None else size
    try:
        pynvml.nvmlDeviceSetMemoryLimits_v1(target.handle, limits)
    except FAILURES as error:
        raise LimitRefused(f"The limit could not be set on {group}. {of_one(error)}") from None


def _missing(target: Target, cgroups: Path) -> str:
    if target.divided:
        return (
            "This GPU is in MIG mode, where the hardware bounds the memory of each instance; there is no other limit."
        )
    if not hasattr(pynvml.nvmlLib, _SET):
        version = reported(pynvml.nvmlSystemGetDriverVersion) or "unknown"
        return f"Memory limits need NVIDIA's driver 615 or newer; this is {version}. Update the driver."
    if not (cgroups / "cgroup.controllers").exists():
        return (
            f"Memory limits need cgroup v2, and {cgroups} is no such tree. Start the machine with "
            "systemd.unified_cgroup_hierarchy=1; the GPU monitor needs the host's tree there."
        )
    if not _named(target.pci, cgroups) and not _answers(target, cgroups):
        return (
            f"Neither the kernel ({cgroups}/dmem.capacity, Linux 6.14 or newer) nor NVIDIA's driver limits the memory "
            "of this GPU for a cgroup. Update the kernel."
        )
    if os.geteuid() != 0:
        return (
            "Memory limits could be set here, but only by root, and the GPU monitor is not. docs/operators.md, "
            "“Idle servers and idle GPUs”, says how it gets that right."
        )
    return ""


def _named(pci: str, cgroups: Path) -> bool:
    """Whether the kernel's controller has the GPU. NVML writes eight digits of the PCI domain, the kernel four."""
    try:
        known = (cgroups / "dmem.capacity").read_text()
    except OSError:
        return False
    return bool(pci) and pci.lower()[-12:] in known.lower()


def _answers(target: Target, cgroups: Path) -> bool:
    """Whether the driver can tell the limits of a cgroup, which anybody may ask."""
    limits = pynvml.c_nvmlGetMemoryLimits_v1_t()
    limits.nameSpace = str(cgroups).encode()
    try:
        pynvml.nvmlDeviceGetMemoryLimits_v1(target.handle, limits)
    except FAILURES:
        return False
    return True
