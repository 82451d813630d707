"""Errors that the driver reports by a number, called Xid, with a GPU: what they mean and when they were heard of.

One set of events hears of all GPUs, and is asked without waiting. NVML does not say when an event happened, so its time
is that of the frame in which it was heard. Old ones are kept, or nobody would see what was said in between.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict, deque
from typing import Any

import pynvml

from gradlab.gpu.nvml.calls import FAILURES, optional

__all__ = ["APPLICATION", "MEANINGS", "Events", "event"]

_KEPT = 20
_AT_ONCE = 100

# Faults of the program that uses the GPU, which is well itself.
APPLICATION = frozenset((13, 31, 43, 45, 68, 109))

MEANINGS = {
    13: "A program made the GPU compute something invalid: an illegal instruction, or an address out of bounds.",
    31: "A program touched GPU memory that it does not have.",
    43: "A program's work on the GPU was stopped because of an error of its own.",
    45: "What a program had left to do on the GPU was thrown away, because it was ended or had failed before.",
    48: "GPU memory failed in a way that ECC sees and cannot correct. Programs that used it have wrong data.",
    61: "The processor inside the GPU that manages it has stopped with a warning. Reset the GPU.",
    62: "The processor inside the GPU that manages it has halted. Reset the GPU.",
    63: "A bad place of GPU memory was noted, and is replaced at the next reset of the GPU.",
    64: "A bad place of GPU memory could not be noted to be replaced. Have the card checked.",
    68: "The video decoder was given something that it cannot process.",
    69: "The GPU's graphics engine was given an invalid command.",
    74: "A connection between GPUs (NVLink) failed. Restart the machine; if it happens again, have it checked.",
    79: "The GPU has fallen off the bus. Restart the machine; if it happens again, have the card checked.",
    92: "GPU memory has many errors that ECC corrects. Have the card checked.",
    94: "GPU memory failed; only the program that used it is affected. Reset the GPU when it is free.",
    95: "GPU memory failed, and any program on this GPU may have wrong data. Reset the GPU.",
    109: "A program's work on the GPU did not make way for another's in time.",
    119: "The GPU's own system processor did not answer the driver in time. Reset the GPU.",
    120: "The GPU's own system processor reported an error. Reset the GPU.",
    140: "GPU memory has an error that could not be dealt with. Reset the GPU.",
}


def event(xid: int, at: float) -> dict[str, Any]:
    """What a frame says of one event."""
    meaning = MEANINGS.get(xid, f"NVIDIA's documentation of Xid errors says what {xid} means.")
    return {"at": at, "xid": xid, "meaning": meaning, "application": xid in APPLICATION}


class Events:
    """What was heard of each GPU, by UUID. Errors of the set are nobody's: a GPU may have no events to tell."""

    def __init__(self) -> None:
        self._set: Any = None
        self._names: dict[int | None, str] = {}
        self._registered: set[str] = set()
        self._kept: defaultdict[str, deque[dict[str, Any]]] = defaultdict(lambda: deque(maxlen=_KEPT))

    def register(self, handle: Any, uuid: str) -> None:
        """Hear of this GPU from now on."""
        if uuid in self._registered and self._names.get(_address(handle)) == uuid:
            return
        try:
            if self._set is None:
                self._set = pynvml.nvmlEventSetCreate()
            pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._set)
        except FAILURES:
            return
        self._names[_address(handle)] = uuid
        self._registered.add(uuid)

    def anew(self, uuid: str) -> None:
        """The GPU was lost: if it is found again it is to be registered again. It may still have something to tell."""
        self._registered.discard(uuid)

    def poll(self, at: float) -> None:
        """Take what has come since the last time."""
        if self._set is None or not self._names:
            return
        for _ in range(_AT_ONCE):
            try:
                told = pynvml.nvmlEventSetWait(self._set, 0)
            except FAILURES:  # a timeout: there is none
                return
            if told.eventType & pynvml.nvmlEventTypeXidCriticalError and (uuid := self._whose(told.device)):
                self._kept[uuid].append(event(int(told.eventData), at))

    def of(self, uuid: str | None) -> list[dict[str, Any]]:
        """The latest events of a GPU, the oldest first."""
        return list(self._kept[uuid]) if uuid is not None and uuid in self._kept else []

    def end(self) -> None:
        """The library is about to end, and its handles with it; what was heard is kept."""
        if self._set is not None:
            optional(pynvml.nvmlEventSetFree, self._set)
        self._set, self._names, self._registered = None, {}, set()

    def _whose(self, handle: Any) -> str | None:
        return self._names.get(_address(handle)) or optional(pynvml.nvmlDeviceGetUUID, handle)


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
