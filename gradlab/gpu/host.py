"""What the machine itself says of processes and containers: ``/proc`` and the tree of cgroups.

Both must be the host's. With the PID namespace of a container the driver lists no process of anybody else, without an
error; :meth:`Host.why_blind` tells that from a machine where nobody uses a GPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradlab.errors import LimitRefused
from gradlab.gpu.owners import container_of, group_of

__all__ = ["Host", "hidden_processes"]

# Linux: PROC_PID_INIT_INO, the first PID namespace of a running kernel.
_FIRST_NAMESPACE = "pid:[4026531836]"
_DEPTH = 5
_LOOK_SECONDS = 30.0
# What is in use without a process on a GPU that nobody uses is less.
_UNEXPLAINED = 256 << 20
# Of a GPU's memory the driver itself takes less than this, where it does not say how much.
_RESERVED_PART = 0.02
_HIDDEN = (
    "Since 535.113 the driver hides processes from whoever is in another PID namespace: start the GPU monitor in the "
    "machine's own (a container: with pid: host). If it is there, look with `nvidia-smi` on the machine itself: a "
    "process that ended may have left the memory behind."
)
_HIDDEN_MIG = (
    "The driver shows processes on MIG instances to an administrator alone: let the GPU monitor run as root with the "
    'capability SYS_ADMIN (docs/operators.md, "Idle servers and idle GPUs").'
)


class Host:
    """Read anew at every call, because the number of a process that ended is given to another one."""

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._files: dict[str, Path] = {}
        self._look_at = 0.0

    def container(self, pid: int | str) -> str | None:
        """The container of a process; None for one of the machine's own, or one that is gone."""
        return container_of(self._membership(pid) or "")

    def inner_pid(self, pid: int) -> int | None:
        """The number that the process has in the innermost PID namespace it is in; None of one that is gone."""
        try:
            lines = (self._proc / str(pid) / "status").read_text().splitlines()
        except OSError:
            return None
        numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
        return int(numbers[-1]) if numbers else None

    def why_blind(self) -> str:
        """Why the driver would hide other containers' processes from us; empty if it does not."""
        try:
            if os.readlink(self._proc / "self" / "ns" / "pid") == _FIRST_NAMESPACE:
                return ""
        except OSError:
            pass
        # In Docker inside of Docker, or in LXC, the machine's first namespace is out of sight, and not needed either.
        first, own = self._membership(1), self._membership("self")
        if first is not None and own is not None and first != own:
            return ""
        return (
            "The GPU monitor does not see the machine's processes, so nobody knows who uses a GPU. Start its container "
            "in the host's PID namespace (pid: host), with a /proc that is not mounted with hidepid."
        )

    def group(self, container: str, pid: int) -> Path:
        """The directory of the container's own cgroup; LimitRefused if the process is not of that container."""
        path = group_of(self._membership(pid) or "", container)
        if path is None:
            raise LimitRefused(
                f"The process {pid} is not one of the container {container[:12]} in a tree of cgroups v2. "
                "Ask with the State.Pid that Docker tells of the running container."
            )
        # Seen from a cgroup namespace of our own the path begins with "..", and what is above us has no name.
        seen = path.strip("/")
        tail = "/".join(name for name in seen.split("/") if name != "..")
        patterns = [f"{'*/' * depth}{tail}" for depth in range(_DEPTH)] if tail != seen else [tail]
        found = next((found for pattern in patterns for found in self._cgroups.glob(pattern)), None)
        if found is None:
            raise LimitRefused(
                f"The cgroup {path} is not below {self._cgroups}. It is there on a machine with cgroup v2, if the "
                "container of the GPU monitor has the host's tree mounted at that place."
            )
        return found

    def processor_seconds(self) -> dict[str, float]:
        """By container, how long it has computed so far on processors; nothing where the tree does not tell."""
        if time.monotonic() >= self._look_at:
            self._files = self._look()
            self._look_at = time.monotonic() + _LOOK_SECONDS
        seconds = {container: _seconds(file) for container, file in self._files.items()}
        return {container: spent for container, spent in seconds.items() if spent is not None}

    def _membership(self, pid: int | str) -> str | None:
        try:
            return (self._proc / str(pid) / "cgroup").read_text()
        except OSError:
            return None

    def _look(self) -> dict[str, Path]:
        """By container the file that counts its processor time. Containers are a few levels deep in the tree."""
        name, top = "cpu.stat", self._cgroups
        if not (top / "cgroup.controllers").exists():
            name, top = "cpuacct.usage", top / "cpuacct"
        found = {}
        for folder, folders, _ in os.walk(top):
            if folder.count("/") - str(top).count("/") >= _DEPTH:
                folders.clear()
            container = container_of(f"0::/{Path(folder).name}")
            if container is not None:
                found[container] = Path(folder) / name
        return found


def hidden_processes(frame: Mapping[str, Any]) -> str:
    """Why it looks as if the driver kept processes from us, by a frame of gradlab.gpu.nvml; empty if it does not.

    It does where GPUs have a good deal of memory in use and not one of them lists any process. Unlike
    :meth:`Host.why_blind` this needs no knowledge of namespaces, but somebody who uses a GPU.
    """
    devices = [device for device in frame["devices"] if device["state"] == "ok" and device["processes"] is not None]
    if not frame["available"] or any(device["processes"] for device in devices):
        return ""
    used = [device for device in devices if _unexplained(device)]
    if not used:
        return ""
    gpus = "A GPU has" if len(used) == 1 else f"{len(used)} GPUs have"
    gib = sum(device["memory_used"] for device in used) / 2**30
    remedy = _HIDDEN_MIG if any(device["mig"] is not None for device in used) else _HIDDEN
    return f"{gpus} {gib:.1f} GiB of memory in use, but the driver lists no process, so nobody knows whose. {remedy}"


def _unexplained(device: Mapping[str, Any]) -> bool:
    """Whether so much memory is in use that there should be a process."""
    used, total = device["memory_used"], device["memory_total"]
    if used is None:
        return False
    # A driver that does not say what it reserves for itself counts that as used.
    reserved = 0 if device["memory_reserved"] is not None else int(_RESERVED_PART * (total or 0))
    return bool(used > _UNEXPLAINED + reserved)


def _seconds(file: Path) -> float | None:
    """What a ``cpu.stat`` (in microseconds) or a ``cpuacct.usage`` (in nanoseconds) says."""
    try:
        words = file.read_text().split()
        return int(words[1]) / 1e6 if words[0] == "usage_usec" else int(words[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
