"""Values as data: how the judge and the sandbox exchange arguments and results.

A frame is ``GLW1``, the header's and the payload's length, a JSON header and raw buffers. What can be inside is a
closed table of types; anything else crosses as a :class:`Handle`, a name for an object that stays in the sandbox.
Nothing is ever unpickled, every length is bounded before it is read, and every size is checked against the bytes that
came.

========== ====================================================================
JSON       None, bool, str, finite float, int below 2**53, list
``t``      int, float (nan, inf), complex, bytes, tuple, dict, set, frozenset,
           tensor, array, npscalar, size, dtype, device, handle
========== ====================================================================

Tensors keep dtype, shape, requires_grad and the order of their axes in memory, so a transposed argument arrives
transposed; they arrive on the CPU.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["MAX_HEADER", "MAX_PAYLOAD", "PREFIX", "Handle", "WireError", "pack", "prefix_lengths", "unpack"]

MAGIC = b"GLW1"
PREFIX = struct.Struct(">4sIQ")
MAX_HEADER = 8 << 20
MAX_PAYLOAD = 256 << 20
MAX_DEPTH = 64
MAX_DIGITS = 4000
MAX_RANK = 32

_TENSOR_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
    )
}  # fmt: skip
_ARRAY_DTYPES = frozenset(
    f"{order}{code}"
    for order, code in [("|", "b1"), ("|", "u1"), ("|", "i1")]
    + [("<", code) for code in ("u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16")]
)


class WireError(ValueError):
    """A frame or value that is not in the table, too large, or does not add up."""


@dataclass(frozen=True)
class Handle:
    """An object that stays in the sandbox: its number there, its type's name and the start of its repr."""

    id: int
    type: str
    repr: str


def pack(value: Any, keep: Callable[[Any], Handle] | None = None) -> bytes:
    """One frame holding ``value``. ``keep`` turns what is not in the table into a handle; without it, WireError."""
    buffers: list[bytes] = []
    tree = _Encoder(buffers, keep).encode(value, 0)
    header = json.dumps({"v": tree, "b": [len(b) for b in buffers]}, allow_nan=False).encode()
    payload = sum(len(b) for b in buffers)
    if len(header) > MAX_HEADER or payload > MAX_PAYLOAD:
        size = len(header) + payload
        raise WireError(f"the value is too large to hand over: {size / 2**20:.0f} MiB, at most {MAX_PAYLOAD >> 20} MiB")
    return b"".join([PREFIX.pack(MAGIC, len(header), payload), header, *buffers])


def prefix_lengths(prefix: bytes) -> tuple[int, int]:
    """Header and payload length of the frame that starts with ``prefix``; WireError before anything large is read."""
    magic, header, payload = PREFIX.unpack(prefix)
    if magic != MAGIC or header > MAX_HEADER or payload > MAX_PAYLOAD:
        raise WireError("the bytes are no frame")
    return header, payload


def unpack(header: bytes, payload: bytes) -> Any:
    """The value in a frame. WireError for anything that does not add up; never runs or imports what it reads."""
    try:
        data = json.loads(header)
        tree, lengths = data["v"], data["b"]
        if not all(type(n) is int and n >= 0 for n in lengths) or sum(lengths) != len(payload):
            raise WireError("the buffers' lengths do not add up")
        view, buffers, start = memoryview(payload), [], 0
        for length in lengths:
            buffers.append(view[start : start + length])
            start += length
        return _Decoder(buffers).decode(tree, 0)
    except WireError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError, RuntimeError) as error:
        raise WireError(f"malformed frame: {type(error).__name__}") from None


class _Encoder:
    def __init__(self, buffers: list[bytes], keep: Callable[[Any], Handle] | None) -> None:
        self._buffers = buffers
        self._keep = keep

    def encode(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise WireError(f"the value is nested more than {MAX_DEPTH} levels deep")
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < 2**53 else {"t": "int", "v": _digits(value)}
        if kind is float:
            return value if value - value == 0 else {"t": "float", "v": repr(value)}
        if kind is list:
            return [self.encode(item, depth + 1) for item in value]
        return self._tagged(value, kind, depth)

    def _tagged(self, value: Any, kind: type, depth: int) -> Any:
        if kind is Handle:
            return {"t": "handle", "id": value.id, "type": value.type, "repr": value.repr}
        if kind is torch.Size:
            return {"t": "size", "v": [int(n) for n in value]}
        if kind is complex:
            return {"t": "complex", "v": [repr(value.real), repr(value.imag)]}
        if kind is bytes:
            return {"t": "bytes", "b": self._buffer(value)}
        if kind in (set, frozenset):
            return {"t": kind.__name__, "v": [self.encode(item, depth + 1) for item in value]}
        if kind is torch.dtype:
            return {"t": "dtype", "v": str(value).removeprefix("torch.")}
        if kind is torch.device:
            return {"t": "device", "v": str(value)}
        if isinstance(value, torch.Tensor) and _is_plain_tensor(value):
            return self._tensor(value)
        if kind is np.ndarray and value.dtype.newbyteorder("<").str in _ARRAY_DTYPES:
            return self._array(value)
        if isinstance(value, np.generic) and value.dtype.str in _ARRAY_DTYPES:
            return {"t": "npscalar", "dtype": value.dtype.str, "b": self._buffer(value.tobytes())}
        if isinstance(value, tuple):  # named tuples too: torch.max(x, 0) returns one
            return {"t": "tuple", "v": [self.encode(item, depth + 1) for item in value]}
        if isinstance(value, dict):  # OrderedDict, defaultdict, a module's state
            pairs = [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in value.items()]
            return {"t": "dict", "v": pairs}
        if self._keep is not None:
            return self._tagged(self._keep(value), Handle, depth)
        raise WireError(f"a {kind.__name__} cannot be handed over as data")

    def _tensor(self, value: torch.Tensor) -> dict[str, Any]:
        strides = value.stride()
        axes = sorted(range(value.dim()), key=lambda axis: -strides[axis])
        plain = value.detach().cpu().resolve_conj().resolve_neg().permute(axes).contiguous()
        # An empty tensor made from a NumPy array has a stride of 0, which no view as bytes accepts.
        data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return {
            "t": "tensor",
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "axes": axes,
            "grad": value.requires_grad,
            "b": self._buffer(data),
        }

    def _array(self, value: np.ndarray[Any, Any]) -> dict[str, Any]:
        little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        dtype, shape = little.dtype.str, list(value.shape)
        return {
            "t": "array", "dtype": dtype, "shape": shape, "locked": not value.flags.writeable,
            "b": self._buffer(little.tobytes()),
        }  # fmt: skip

    def _buffer(self, data: bytes) -> int:
        self._buffers.append(data)
        return len(self._buffers) - 1


class _Decoder:
    def __init__(self, buffers: list[memoryview]) -> None:
        self._buffers = buffers

    def decode(self, tree: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise WireError(f"the value is nested more than {MAX_DEPTH} levels deep")
        if tree is None or type(tree) in (bool, str, int, float):
            return tree
        if type(tree) is list:
            return [self.decode(item, depth + 1) for item in tree]
        tag = tree["t"]
        if tag in ("tuple", "set", "frozenset"):
            made = {"tuple": tuple, "set": set, "frozenset": frozenset}[tag]
            return made(self.decode(item, depth + 1) for item in tree["v"])
        if tag == "dict":
            return {self.decode(k, depth + 1): self.decode(v, depth + 1) for k, v in tree["v"]}
        reader = getattr(self, f"_{tag}", None) if tag in _TAGS else None
        if reader is None:
            raise WireError(f"unknown type {str(tag)[:40]!r}")
        return reader(tree)

    def _int(self, tree: dict[str, Any]) -> int:
        if len(tree["v"]) > MAX_DIGITS + 1:
            raise WireError("an integer with too many digits")
        return int(tree["v"])

    def _float(self, tree: dict[str, Any]) -> float:
        return float(tree["v"])

    def _complex(self, tree: dict[str, Any]) -> complex:
        real, imaginary = tree["v"]
        return complex(float(real), float(imaginary))

    def _bytes(self, tree: dict[str, Any]) -> bytes:
        return bytes(self._buffers[tree["b"]])

    def _size(self, tree: dict[str, Any]) -> torch.Size:
        return torch.Size(tree["v"])

    def _dtype(self, tree: dict[str, Any]) -> torch.dtype:
        value = getattr(torch, tree["v"]) if str(tree["v"]).isidentifier() else None
        if not isinstance(value, torch.dtype):
            raise WireError("unknown dtype")
        return value

    def _device(self, tree: dict[str, Any]) -> torch.device:
        return torch.device(tree["v"])

    def _handle(self, tree: dict[str, Any]) -> Handle:
        return Handle(id=int(tree["id"]), type=str(tree["type"])[:200], repr=str(tree["repr"])[:500])

    def _tensor(self, tree: dict[str, Any]) -> torch.Tensor:
        dtype, shape, axes = _TENSOR_DTYPES[tree["dtype"]], tree["shape"], tree["axes"]
        data = self._buffers[tree["b"]]
        _check_shape(shape, dtype.itemsize, len(data))
        if sorted(axes) != list(range(len(shape))):
            raise WireError("the axes are no permutation")
        flat = torch.empty(len(data), dtype=torch.uint8)
        if len(data):
            flat.numpy()[:] = np.frombuffer(data, dtype=np.uint8)
        stored = flat.view(dtype).reshape([shape[axis] for axis in axes])
        back = [axes.index(axis) for axis in range(len(axes))]
        return stored.permute(back).requires_grad_(bool(tree["grad"]))

    def _array(self, tree: dict[str, Any]) -> np.ndarray[Any, Any]:
        if tree["dtype"] not in _ARRAY_DTYPES:
            raise WireError("unknown array dtype")
        dtype, data = np.dtype(tree["dtype"]), self._buffers[tree["b"]]
        _check_shape(tree["shape"], dtype.itemsize, len(data))
        array = np.frombuffer(data, dtype=dtype).reshape(tree["shape"]).copy()
        array.flags.writeable = not tree["locked"]
        return array

    def _npscalar(self, tree: dict[str, Any]) -> Any:
        if tree["dtype"] not in _ARRAY_DTYPES:
            raise WireError("unknown scalar dtype")
        return np.frombuffer(self._buffers[tree["b"]], dtype=np.dtype(tree["dtype"]), count=1)[0]


_TAGS = frozenset(
    ("int", "float", "complex", "bytes", "size", "dtype", "device", "handle", "tensor", "array", "npscalar")
)


def _digits(value: int) -> str:
    try:
        text = str(value)
    except ValueError:  # Python itself refuses more than 4300 digits
        text = "0" * (MAX_DIGITS + 2)
    if len(text) > MAX_DIGITS + 1:
        raise WireError(f"the integer has more than {MAX_DIGITS} digits")
    return text


def _is_plain_tensor(value: torch.Tensor) -> bool:
    return (
        value.layout is torch.strided
        and value.device.type != "meta"
        and str(value.dtype).removeprefix("torch.") in _TENSOR_DTYPES
        and not torch.nn.parameter.is_lazy(value)
    )


def _check_shape(shape: Any, itemsize: int, length: int) -> None:
    if type(shape) is not list or len(shape) > MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
        raise WireError("malformed shape")
    count = itemsize
    for n in shape:
        count *= n
    if count != length:
        raise WireError(f"a shape of {shape} needs {count} bytes, not {length}")
