"""The MIG instances of a GPU: what each has of its memory, how busy it is, and who is on it.

Handles of instances go stale when instances are made or removed, so they are looked up again and again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pynvml

from gradlab.gpu.nvml import figures
from gradlab.gpu.nvml.calls import NO_RIGHTS, Fields
from gradlab.gpu.nvml.gpm import Gpm
from gradlab.gpu.nvml.processes import Lists, Placed

__all__ = ["Instance", "instances", "read"]


@dataclass(frozen=True)
class Instance:
    """A MIG device: a compute instance within a GPU instance."""

    handle: Any
    uuid: str | None
    name: str | None
    gpu_instance: int | None
    compute_instance: int | None


def instances(fields: Fields, handle: Any) -> list[Instance] | None:
    """Those of a GPU; None if it is in no such mode now, whatever it is to be after its next reset."""
    mode = fields("mig", pynvml.nvmlDeviceGetMigMode, handle)
    return list(_instances(fields, handle)) if mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE else None


def read(
    handle: Any, inside: Sequence[Instance], lists: Lists, gpm: Gpm | None, fields: Fields
) -> tuple[list[dict[str, Any]], Placed | None]:
    """What a frame says of each instance, and the processes on all; None if the driver does not list them.

    An instance that cannot be read has its ``error`` and does not hide the others.
    """
    found, listed, all_listed = [], Placed(), True
    for one in inside:
        own = Fields()
        device, processes = _read(handle, one, lists, gpm, own)
        found.append(device)
        fields.stale |= own.stale
        if processes is not None:
            listed |= processes
        elif own.problems.get("processes", NO_RIGHTS) == NO_RIGHTS:
            all_listed = False
        else:
            fields.problems["processes"] = own.problems["processes"]
    return found, listed if all_listed else _of_gpu(handle, inside, lists, fields)


def _of_gpu(handle: Any, inside: Sequence[Instance], lists: Lists, fields: Fields) -> Placed | None:
    """Those who have the right may ask the GPU for the processes of all its instances."""
    listed = lists.of(handle, fields)
    names = {(one.gpu_instance, one.compute_instance): one.uuid for one in inside}
    return None if listed is None else {(pid, names.get(place)): seen for (pid, place), seen in listed.items()}


def _instances(fields: Fields, handle: Any) -> Iterator[Instance]:
    for slot in range(fields("mig", pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        one = fields("mig", pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)  # an empty slot is "not found"
        if one is not None:
            yield Instance(
                one,
                fields("mig", pynvml.nvmlDeviceGetUUID, one),
                fields("mig", pynvml.nvmlDeviceGetName, one),
                fields("mig", pynvml.nvmlDeviceGetGpuInstanceId, one),
                fields("mig", pynvml.nvmlDeviceGetComputeInstanceId, one),
            )


def _read(
    handle: Any, one: Instance, lists: Lists, gpm: Gpm | None, fields: Fields
) -> tuple[dict[str, Any], Placed | None]:
    memory = figures.memory(fields, one.handle)
    listed = lists.of(one.handle, fields)
    busy = None if gpm is None or one.gpu_instance is None else gpm.utilisation(handle, one.gpu_instance)
    device = {
        "uuid": one.uuid,
        "name": one.name,
        "gpu_instance": one.gpu_instance,
        "compute_instance": one.compute_instance,
        "memory_used": memory["memory_used"],
        "memory_total": memory["memory_total"],
        "utilisation": busy,
        "utilisation_by": None if busy is None else "gpm",
        "error": next((problem for problem in fields.problems.values() if problem != NO_RIGHTS), None),
    }
    return device, None if listed is None else {(pid, one.uuid): seen for (pid, _), seen in listed.items()}
