"""Which learner uses which GPU how much: a frame joined with the owners of its processes and the roster of servers.

Pure: data in, data out. The rules:

* A process belongs to a learner's server, or is the machine's own (a compositor, another container). A process that
  ended while it was looked at belongs to nobody; its memory is unattributed.
* Memory that no process accounts for (what contexts need, what a dead process left, what the driver hides) is
  ``unattributed``, and never shared out. Where a process's memory is not reported, nobody can say how much that is.
* Utilisation of a part is the sum over its processes, 100 at most. In MIG mode the hardware reports it for an instance
  alone, so it is a server's only if nobody else is on that instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlab.gpu.owners import Owner
from gradlab.roster import Roster, Server

__all__ = ["DeviceUse", "Joined", "Machine", "Part", "ServerUse", "join"]

Frame = Mapping[str, Any]
Device = Mapping[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True)
class Part:
    """What one server's processes have of one GPU or MIG instance; None is what the hardware does not report."""

    server: Server
    device: str
    instance: str | None
    processes: int
    memory: int | None
    utilisation: int | None


@dataclass(frozen=True)
class Machine:
    """What processes have that are no learner's."""

    processes: int
    memory: int | None
    utilisation: int | None


@dataclass(frozen=True)
class DeviceUse:
    """One GPU: ``parts`` by memory, the largest first; ``unattributed`` in bytes, None if nobody can say."""

    uuid: str
    device: Device
    parts: tuple[Part, ...] = ()
    machine: Machine = Machine(0, 0, 0)
    unattributed: int | None = None
    holders: tuple[Server, ...] = ()


@dataclass(frozen=True)
class ServerUse:
    """One server that holds a GPU or is on one; sums over all GPUs it is on, with None as above."""

    server: Server
    parts: tuple[Part, ...] = ()

    @property
    def processes(self) -> int:
        return sum(part.processes for part in self.parts)

    @property
    def memory(self) -> int | None:
        return _sum(part.memory for part in self.parts)

    @property
    def utilisation(self) -> int | None:
        """Percent of the GPUs it is on, as a mean; 0 for one that is on none."""
        known = _sum(part.utilisation for part in self.parts)
        return known if known is None or not self.parts else round(known / len(self.parts))

    @property
    def over_share(self) -> bool:
        """Whether it has more memory than its share, where nothing but this keeps it from that."""
        server = self.server
        if server.share is None or server.hard:
            return False
        on = _sum(part.memory for part in self.parts if server.device in (part.device, part.instance))
        return on is not None and on > server.share


@dataclass(frozen=True)
class Joined:
    """Everything at one moment: GPUs in the driver's order, servers by name."""

    devices: tuple[DeviceUse, ...] = ()
    servers: tuple[ServerUse, ...] = ()


def join(frame: Frame, owners: Mapping[int, Owner], roster: Roster) -> Joined:
    """``owners`` has the owner of every process of the frame that is still there."""
    devices = tuple(_device_use(device, owners, roster) for device in frame["devices"])
    parts: dict[Key, list[Part]] = {server.key: [] for server in roster.servers if server.device}
    for use in devices:
        for part in use.parts:
            parts.setdefault(part.server.key, []).append(part)
    known = {server.key: server for server in roster.servers}
    return Joined(devices, tuple(ServerUse(known[key], tuple(parts[key])) for key in sorted(parts)))


def _device_use(device: Device, owners: Mapping[int, Owner], roster: Roster) -> DeviceUse:
    uuid = str(device["uuid"] or f"GPU at index {device['index']}")
    instances = {one["uuid"] for one in device["mig"] or ()}
    holders = tuple(server for server in roster.servers if server.device and server.device in {uuid, *instances})
    processes = device["processes"]
    if processes is None:
        return DeviceUse(uuid, device, machine=Machine(0, None, None), holders=holders)
    groups: dict[tuple[Key, str | None], list[Mapping[str, Any]]] = {}
    servers: dict[Key, Server] = {}
    own, gone = [], []
    for process in processes:
        owner = owners.get(process["pid"])
        if owner is None:
            gone.append(process)
        elif owner.server is None:
            own.append(process)
        else:
            servers[owner.server.key] = owner.server
            groups.setdefault((owner.server.key, process["instance"]), []).append(process)
    parts = [
        Part(servers[key], uuid, instance, len(group), _sum(one["memory"] for one in group), _percent(group))
        for (key, instance), group in groups.items()
    ]
    parts = _with_instances(parts, device, own)
    machine = Machine(len(own), _sum(one["memory"] for one in own), _percent(own) if device["measured"] else None)
    accounted = _sum([machine.memory, *(part.memory for part in parts)])
    used = device["memory_used"]
    unattributed = None if accounted is None or used is None else max(0, used - accounted)
    parts.sort(key=lambda part: (-(part.memory or 0), part.server.key))
    return DeviceUse(uuid, device, tuple(parts), machine, unattributed, holders)


def _with_instances(parts: Sequence[Part], device: Device, own: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The utilisation of a MIG instance, for the one server that is alone on it."""
    measured = {one["uuid"]: one["utilisation"] for one in device["mig"] or ()}
    on = [part.instance for part in parts] + [one["instance"] for one in own]
    return [
        Part(part.server, part.device, part.instance, part.processes, part.memory, measured[part.instance])
        if part.instance in measured and on.count(part.instance) == 1
        else part
        for part in parts
    ]


def _percent(processes: Sequence[Mapping[str, Any]]) -> int | None:
    total = _sum(process["sm"] for process in processes)
    return None if total is None else min(100, total)


def _sum(values: Iterable[int | None]) -> int | None:
    """None if one of them is not known."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
