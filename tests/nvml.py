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

__all__ = ["Card", "Library", "loaded"]

GIB = 1 << 30


@dataclass
class Card:
    """One GPU. ``fails`` maps a C symbol to the NVML error it answers with."""

    name: str = "NVIDIA H200"
    used: int = 3 * GIB
    reserved: int = GIB
    total: int = 140 * GIB
    utilisation: int = 42
    celsius: int = 35
    milliwatts: int = 78_500
    fails: dict[str, int] = field(default_factory=dict)


class Library:
    """The functions a driver exports; ``missing`` ones do not exist, ``fails`` ones answer with an error."""

    def __init__(self, *cards: Card, missing: tuple[str, ...] = (), fails: dict[str, int] | None = None) -> None:
        self.cards = list(cards)
        self.missing = missing
        self.fails = fails or {}
        self.starts = 0

    def __getattr__(self, symbol: str) -> Callable[..., int]:
        if symbol in self.missing or not hasattr(type(self), f"_{symbol}"):
            raise AttributeError(symbol)
        answer = getattr(self, f"_{symbol}")

        def call(*arguments: Any) -> int:
            if symbol in self.fails:
                return self.fails[symbol]
            card = self._card(arguments[0]) if symbol.startswith("nvmlDevice") and "Count" not in symbol else None
            if card is not None and symbol in card.fails:
                return card.fails[symbol]
            answer(card, *arguments)
            return pynvml.NVML_SUCCESS

        return call

    def _card(self, handle: Any) -> Card:
        index = handle.value if isinstance(handle, ctypes.c_uint) else ctypes.cast(handle, ctypes.c_void_p).value - 1
        return self.cards[index]

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
        text.value = f"GPU-{self.cards.index(card)}".encode()

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
