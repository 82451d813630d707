"""Frames of labkit.wire as tests look at them, and a sandbox that answers as it is told."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from labkit.wire import PREFIX, Handle, pack, prefix_lengths, unpack

__all__ = ["ERROR", "Scripted", "over_the_wire", "parts", "same"]

# An exception as the agent tells it.
ERROR = {"type": "E", "bases": ["E", "Exception"], "message": "no", "where": "cell 1, line 2", "traceback": ""}


class Scripted:
    """The part of a sandbox that a Student uses: gives one reply, over the wire, or raises it, whatever it is asked."""

    def __init__(self, reply: Any) -> None:
        self._raised = reply if isinstance(reply, Exception) else None
        self._frame = parts(None if self._raised else reply)
        self.killed = False

    def send(self, message: dict[str, Any], deadline: float) -> None:
        pack(message)

    def receive(self, deadline: float) -> Any:
        if self._raised is not None:
            raise self._raised
        return unpack(*self._frame)

    def kill(self) -> None:
        self.killed = True


def parts(value: Any, keep: Callable[[Any], Handle] | None = None) -> tuple[bytes, bytes]:
    """The header and the payload of the frame that holds ``value``."""
    frame = pack(value, keep)
    header, payload = prefix_lengths(frame[: PREFIX.size])
    body = frame[PREFIX.size :]
    assert len(body) == header + payload
    return body[:header], body[header:]


def over_the_wire(value: Any, keep: Callable[[Any], Handle] | None = None) -> Any:
    return unpack(*parts(value, keep))


def same(a: Any, b: Any) -> bool:
    """Equality of exact type and value to the bit: a nan is equal to one with its sign and payload, 0.0 is not -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, set | frozenset):
        return sorted(map(_word, a)) == sorted(map(_word, b))
    if isinstance(a, torch.Tensor):
        facts = (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, b.requires_grad)
        return facts and _bits(a) == _bits(b)
    if isinstance(a, np.ndarray | np.generic):
        facts = (a.dtype, a.shape, a.flags.writeable) == (b.dtype, b.shape, b.flags.writeable)
        return facts and a.tobytes() == b.tobytes()
    return bool(_word(a) == _word(b))


def _word(value: Any) -> str:
    if type(value) is float:
        return struct.pack(">d", value).hex()
    if type(value) is complex:
        return _word(value.real) + _word(value.imag)
    if type(value) is int:
        return hex(value)
    if type(value) in (tuple, frozenset):
        words = map(_word, value)
        return f"{type(value).__name__}{list(words) if type(value) is tuple else sorted(words)}"
    return f"{type(value).__name__} {value!r}"


def _bits(value: torch.Tensor) -> list[int]:
    plain = value.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    bits: list[int] = plain.view(torch.uint8).tolist() if plain.numel() else []
    return bits
