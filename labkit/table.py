"""What the wire can carry, and in which bounds: the closed table that both directions read.

Bounds are the same on both sides, so whatever can be packed can be unpacked, and nothing else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = [
    "ARRAY_DTYPES",
    "FLOAT",
    "KEYS",
    "MAX_DEPTH",
    "MAX_HEADER",
    "MAX_ITEMS",
    "MAX_PAYLOAD",
    "MAX_RANK",
    "MAX_REPR",
    "MAX_TEXT",
    "MAX_TYPE",
    "TENSOR_DTYPES",
    "TENSOR_NAMES",
    "Handle",
    "WireError",
    "bytes_of",
    "legible",
]

# Python's objects take many times the bytes of the JSON they are made from, and the time to make them.
MAX_HEADER = 2 << 20
MAX_PAYLOAD = 256 << 20
# One character outside the basic plane makes all others of its string four bytes long.
MAX_TEXT = 16 << 20
MAX_ITEMS = 200_000
MAX_DEPTH = 64
MAX_RANK = 32
MAX_TYPE = 200
MAX_REPR = 500

TENSOR_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
    )
}  # fmt: skip
TENSOR_NAMES = {dtype: name for name, dtype in TENSOR_DTYPES.items()}
ARRAY_DTYPES = {
    f"{order}{code}": np.dtype(f"{order}{code}")
    for order, code in [("|", "b1"), ("|", "u1"), ("|", "i1")]
    + [("<", code) for code in ("u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16")]
}
FLOAT = struct.Struct(">d")


class WireError(ValueError):
    """A frame or value that is not in the table, too large, or does not add up."""


@dataclass(frozen=True)
class Handle:
    """An object that stays in the sandbox: its number there, its type's name and the start of its repr."""

    id: int
    type: str
    repr: str


# What a key of a dict or an item of a set can be.
KEYS = (
    *(dtype.type for dtype in ARRAY_DTYPES.values()), np.str_, np.bytes_,
    str, bool, int, float, complex, bytes, torch.Size, tuple, frozenset, type(None), torch.dtype, torch.device, Handle,
)  # fmt: skip


def bytes_of(shape: Any, itemsize: int) -> int:
    """How many bytes the elements take."""
    if type(shape) is not list:
        raise WireError("malformed shape")
    if len(shape) > MAX_RANK:
        raise WireError(f"a tensor or array of {len(shape)} dimensions cannot be handed over; at most {MAX_RANK}")
    count = extent = itemsize
    for n in shape:
        if type(n) is not int or not 0 <= n < 2**62:
            raise WireError("malformed shape")
        count *= n
        extent *= n or 1
    # Strides are products too, and those of an empty tensor count a size of 0 as 1.
    if extent >= 2**62:
        raise WireError(f"a shape of {shape} is too large")
    return count


def legible(text: str) -> str:
    """The text without lone surrogates, which are no characters: UTF-8 cannot say them, nor can they be stored."""
    return text.encode("utf-8", "replace").decode()
