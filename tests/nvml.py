"""A stand-in for ``libnvidia-ml.so.1`` under the real ``pynvml``: the one place where these tests use a fake.

``Library`` answers by C symbol with the C library's signatures, so everything above it is the shipped code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pynvml
import pytest

__all__ = ["GIB", "Card", "Library", "Runs", "loaded", "replaceable"]

GIB = 1 << 30


@dataclass
class Runs:
    """A process on a GPU; ``busy`` is its utilisation and ``time`` when that was sampled, in microseconds."""

    pid: int
    memory: int = GIB
    busy: int = 0
    time: int = 0
    # Which of the driver's lists it is in.
    kinds: str = "C"


@dataclass
class Card:
    """One GPU or MIG instance. ``fails`` maps a C symbol to the NVML error it answers with.

    ``instances`` are those of a GPU in MIG mode, None an empty place.
    """

    name: str = "NVIDIA H200"
    used: int = 3 * GIB
    reserved: int = GIB
    total: int = 140 * GIB
    utilisation: int = 42
    celsius: int = 35
    milliwatts: int = 78_500
    pci: str = "00000000:17:00.0"
    persistence: int | None = None
    runs: list[Runs] = field(default_factory=list)
    instances: list[Card | None] | None = None
    fails: dict[str, int] = field(default_factory=dict)


class Library:
    """The functions a driver exports; ``missing`` ones do not exist, ``fails`` ones answer with an error."""

    def __init__(self, *cards: Card, missing: tuple[str, ...] = (), fails: dict[str, int] | None = None) -> None:
        self.cards = list(cards)
        self.missing = missing
        self.fails = fails or {}
        self.starts = 0
        # (PCI address, cgroup, hard limit, soft limit), in the order they were set.
        self.limits: list[tuple[str, str, int, int]] = []

    def __getattr__(self, symbol: str) -> Callable[..., int]:
        if symbol in self.missing or not hasattr(type(self), f"_{symbol}"):
            raise AttributeError(symbol)

        def call(*arguments: Any) -> int:
            if symbol in self.fails:
                return self.fails[symbol]
            card = (
                self._card(arguments[0])
                if symbol.startswith("nvmlDevice") and symbol != "nvmlDeviceGetCount_v2"
                else None
            )
            if card is not None and symbol in card.fails:
                return card.fails[symbol]
            code = getattr(self, f"_{symbol}")(card, *arguments)
            return pynvml.NVML_SUCCESS if code is None else int(code)

        return call

    def _card(self, handle: Any) -> Card:
        index = handle.value if isinstance(handle, ctypes.c_uint) else ctypes.cast(handle, ctypes.c_void_p).value - 1
        place, card = divmod(index, 1000)  # a MIG instance's handle has its place, from 1, in front of the GPU's
        return self.cards[card] if place == 0 else self.cards[card].instances[place - 1]

    def _uuid(self, card: Card) -> str:
        for index, gpu in enumerate(self.cards):
            if gpu is card:
                return f"GPU-{index}"
            for place, instance in enumerate(gpu.instances or []):
                if instance is card:
                    return f"MIG-{index}-{place}"
        raise AssertionError(card)

    def _nvmlInitWithFlags(self, _card: None, _flags: Any) -> None:
        self.starts += 1

    def _nvmlShutdown(self, _card: None) -> None:
        pass

    def _nvmlSystemGetDriverVersion(self, _card: None, text: Any, _size: Any) -> None:
        text.value = b"610.43"

    def _nvmlDeviceGetCount_v2(self, _card: None, count: Any) -> None:
        count._obj.value = len(self.cards)

    def _nvmlDeviceGetHandleByIndex_v2(self, _card: Card, index: Any, handle: Any) -> None:
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = index.value + 1

    def _nvmlDeviceGetUUID(self, card: Card, _handle: Any, text: Any, _size: Any) -> None:
        text.value = self._uuid(card).encode()

    def _nvmlDeviceGetName(self, card: Card, _handle: Any, text: Any, _size: Any) -> None:
        text.value = card.name.encode()

    def _nvmlDeviceGetMemoryInfo(self, card: Card, _handle: Any, memory: Any) -> None:
        memory._obj.used, memory._obj.total = card.used + card.reserved, card.total

    def _nvmlDeviceGetMemoryInfo_v2(self, card: Card, _handle: Any, memory: Any) -> None:
        memory._obj.used, memory._obj.reserved, memory._obj.total = card.used, card.reserved, card.total

    def _nvmlDeviceGetUtilizationRates(self, card: Card, _handle: Any, rates: Any) -> None:
        rates._obj.gpu, rates._obj.memory = card.utilisation, 7

    def _nvmlDeviceGetTemperatureV(self, card: Card, _handle: Any, temperature: Any) -> None:
        temperature._obj.temperature = card.celsius

    def _nvmlDeviceGetTemperature(self, card: Card, _handle: Any, _sensor: Any, temperature: Any) -> None:
        temperature._obj.value = card.celsius

    def _nvmlDeviceGetPowerUsage(self, card: Card, _handle: Any, milliwatts: Any) -> None:
        milliwatts._obj.value = card.milliwatts

    def _nvmlDeviceGetPciInfo_v3(self, card: Card, _handle: Any, info: Any) -> None:
        info._obj.busId = card.pci.encode()

    def _nvmlDeviceGetPersistenceMode(self, card: Card, _handle: Any, mode: Any) -> int | None:
        if card.persistence is None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        mode._obj.value = card.persistence
        return None

    def _nvmlDeviceGetMigMode(self, card: Card, _handle: Any, now: Any, _later: Any) -> None:
        now._obj.value = int(card.instances is not None)

    def _nvmlDeviceGetMaxMigDeviceCount(self, card: Card, _handle: Any, count: Any) -> None:
        count._obj.value = len(card.instances or [])

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, _handle: Any, place: Any, handle: Any) -> int | None:
        assert card.instances is not None
        if card.instances[place.value] is None:
            return pynvml.NVML_ERROR_NOT_FOUND
        number = (place.value + 1) * 1000 + next(n for n, gpu in enumerate(self.cards) if gpu is card)
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = number + 1
        return None

    def _nvmlDeviceGetComputeRunningProcesses_v3(self, card: Card, _handle: Any, *into: Any) -> int:
        return _list(card, "C", *into)

    def _nvmlDeviceGetGraphicsRunningProcesses_v3(self, card: Card, _handle: Any, *into: Any) -> int:
        return _list(card, "G", *into)

    def _nvmlDeviceGetMPSComputeRunningProcesses_v3(self, card: Card, _handle: Any, *into: Any) -> int:
        return _list(card, "M", *into)

    _nvmlDeviceGetComputeRunningProcesses_v2 = _nvmlDeviceGetComputeRunningProcesses_v3
    _nvmlDeviceGetGraphicsRunningProcesses_v2 = _nvmlDeviceGetGraphicsRunningProcesses_v3
    _nvmlDeviceGetMPSComputeRunningProcesses_v2 = _nvmlDeviceGetMPSComputeRunningProcesses_v3

    def _nvmlDeviceGetProcessUtilization(
        self, card: Card, _handle: Any, samples: Any, count: Any, since: Any
    ) -> int | None:
        """As drivers do: room for a hundred is asked for, then "not found" if nobody was busy."""
        if samples is None:
            count._obj.value = 100
            return pynvml.NVML_ERROR_INSUFFICIENT_SIZE
        new = [runs for runs in card.runs if runs.busy and runs.time > since.value]
        for sample, runs in zip(samples, new, strict=False):
            sample.pid, sample.timeStamp, sample.smUtil = runs.pid, runs.time, runs.busy
        count._obj.value = len(new)
        return None if new else pynvml.NVML_ERROR_NOT_FOUND

    def _nvmlDeviceSetMemoryLimits_v1(self, card: Card, _handle: Any, limits: Any) -> None:
        told = limits._obj
        self.limits.append((card.pci, told.nameSpace, told.hardLimit, told.softLimit))

    def _nvmlDeviceGetMemoryLimits_v1(self, _card: Card, _handle: Any, _limits: Any) -> None:
        pass


def replaceable(*cards: Card) -> Library:
    """A driver of a class of its own, so that a test can replace a function of it."""
    return type("Replaceable", (Library,), {})(*cards)


def _list(card: Card, kind: str, count: Any, processes: Any) -> int:
    """The driver's list of one kind: how many there are, and the processes if there is room."""
    found = [runs for runs in card.runs if kind in runs.kinds]
    room, count._obj.value = count._obj.value, len(found)
    if processes is None or room < len(found):
        return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE) if found else int(pynvml.NVML_SUCCESS)
    for process, runs in zip(processes, found, strict=False):
        process.pid, process.usedGpuMemory = runs.pid, runs.memory
    return int(pynvml.NVML_SUCCESS)


@contextmanager
def loaded(library: Library | None) -> Iterator[None]:
    """``pynvml`` works on this library inside the block; None is a machine without a driver."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pynvml, "nvmlLib", library)
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        if library is None:

            def absent(_name: str) -> None:
                raise OSError("libnvidia-ml.so.1: cannot open shared object file: No such file or directory")

            patch.setattr(pynvml, "CDLL", absent)
        yield
