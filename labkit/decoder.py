"""From the tree and the buffers of a frame to the value (:mod:`labkit.wire` says what they look like).

Whoever sent them may be an enemy: every name is looked up in a table, every size is compared with the bytes that came,
and nothing is run or imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from labkit.plain import from_device
from labkit.table import (
    ARRAY_DTYPES,
    FLOAT,
    KEYS,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_REPR,
    MAX_TEXT,
    MAX_TYPE,
    TENSOR_DTYPES,
    Handle,
    WireError,
    bytes_of,
    legible,
)

__all__ = ["READERS", "Decoder"]

MAX_COLLISIONS = 16

_LEAVES = frozenset((type(None), bool, int, float))
_KEY_KINDS = frozenset(KEYS)
# NumPy's dtype of the same size, and but for one of the same name.
_BITS = {dtype: np.dtype("i2" if dtype is torch.bfloat16 else name) for name, dtype in TENSOR_DTYPES.items()}
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_DEVICE = re.compile(r"[a-z]{1,20}(:[0-9]{1,5})?")


class Decoder:
    """Turns a tree into its value; ``buffers`` are used up on the way."""

    def __init__(self, buffers: Iterator[memoryview]) -> None:
        self.buffers = buffers
        self._items = 0
        self._text = 0

    def decode(self, tree: Any, depth: int) -> Any:
        if type(tree) is list:
            if depth > MAX_DEPTH:
                raise WireError(f"the value is nested more than {MAX_DEPTH} levels deep")
            reader = READERS.get(tree[0])
            if reader is None:
                raise WireError(f"unknown type {str(tree[0])[:40]!r}")
            return reader(self, tree, depth)
        if type(tree) is dict:
            raise WireError("a JSON object is no value")
        if type(tree) is str and not tree.isascii():
            raise WireError("text that is not ASCII belongs into a buffer")
        return tree

    def _list(self, tree: list[Any], depth: int) -> list[Any]:
        self._items += len(tree) - 1
        if self._items > MAX_ITEMS:
            raise WireError(f"more than {MAX_ITEMS} items")
        return [item if type(item) in _LEAVES else self.decode(item, depth + 1) for item in tree[1:]]

    def _tuple(self, tree: list[Any], depth: int) -> tuple[Any, ...]:
        return tuple(self._list(tree, depth))

    def _set(self, tree: list[Any], depth: int) -> set[Any]:
        return set(_different(self._list(tree, depth)))

    def _frozenset(self, tree: list[Any], depth: int) -> frozenset[Any]:
        return frozenset(_different(self._list(tree, depth)))

    def _dict(self, tree: list[Any], depth: int) -> dict[Any, Any]:
        both = self._list(tree, depth)
        return dict(zip(_different(both[::2]), both[1::2], strict=True))

    def _float(self, tree: list[Any], depth: int) -> float:
        _, bits = tree
        if len(bits) != 2 * FLOAT.size:
            raise WireError("malformed float")
        value: float = FLOAT.unpack(bytes.fromhex(bits))[0]
        return value

    def _complex(self, tree: list[Any], depth: int) -> complex:
        _, real, imaginary = (self.decode(part, depth + 1) for part in tree)
        if type(real) is not float or type(imaginary) is not float:
            raise WireError("a complex number is made of two floats")
        return complex(real, imaginary)

    def _str(self, tree: list[Any], depth: int) -> str:
        (_,) = tree
        data = self._buffer()
        self._text += len(data)
        if self._text > MAX_TEXT:
            raise WireError(f"more than {MAX_TEXT >> 20} MiB of text")
        return str(data, "utf-8")

    def _bytes(self, tree: list[Any], depth: int) -> bytes:
        (_,) = tree
        return bytes(self._buffer())

    def _size(self, tree: list[Any], depth: int) -> torch.Size:
        _, *sizes = tree
        if not all(type(n) is int and -(2**63) <= n < 2**63 for n in sizes):
            raise WireError("malformed size")
        return torch.Size(sizes)

    def _dtype(self, tree: list[Any], depth: int) -> torch.dtype:
        _, name = tree
        if (value := _DTYPES.get(name)) is None:
            raise WireError(f"unknown dtype {str(name)[:40]!r}")
        return value

    def _device(self, tree: list[Any], depth: int) -> torch.device:
        _, name = tree
        try:
            device = torch.device(name) if _DEVICE.fullmatch(name) else None
        except RuntimeError:
            device = None
        if device is None or str(device) != name:
            raise WireError(f"unknown device {str(name)[:40]!r}")
        return device

    def _handle(self, tree: list[Any], depth: int) -> Handle:
        _, number, kind, shown = tree
        if type(number) is not int or not 0 <= number < 2**53 or type(kind) is not str or type(shown) is not str:
            raise WireError("malformed handle")
        return Handle(id=number, type=legible(kind[:MAX_TYPE]), repr=legible(shown[:MAX_REPR]))

    def _tensor(self, tree: list[Any], depth: int) -> torch.Tensor:
        _, name, shape, axes, grad, *device = tree
        dtype = TENSOR_DTYPES[name]
        data = self._data(shape, dtype.itemsize)
        if type(grad) is not bool or (grad and not (dtype.is_floating_point or dtype.is_complex)):
            raise WireError(f"a tensor of dtype {name} cannot require grad")
        if axes is not None and (not all(type(n) is int for n in axes) or sorted(axes) != list(range(len(shape)))):
            raise WireError("the axes are no permutation")
        stored = shape if axes is None else [shape[axis] for axis in axes]
        bits = _elements(data, _BITS[dtype]).reshape(stored)
        # The device is named because a program may have chosen another default.
        tensor = torch.tensor(bits, device="cpu")
        tensor = tensor.view(dtype) if dtype is torch.bfloat16 else tensor
        if axes is not None:
            tensor = tensor.permute([axes.index(axis) for axis in range(len(axes))])
        tensor = tensor.requires_grad_() if grad else tensor
        return from_device(tensor, self._device(["device", *device], depth)) if device else tensor

    def _array(self, tree: list[Any], depth: int) -> np.ndarray[Any, Any]:
        _, name, shape, locked = tree
        dtype = ARRAY_DTYPES[name]
        if type(locked) is not bool:
            raise WireError("malformed array")
        array = _elements(self._data(shape, dtype.itemsize), dtype).reshape(shape).copy()
        array.flags.writeable = not locked
        return array

    def _scalar(self, tree: list[Any], depth: int) -> Any:
        _, name = tree
        dtype = ARRAY_DTYPES[name]
        return _elements(self._data([], dtype.itemsize), dtype)[0]

    def _data(self, shape: Any, itemsize: int) -> memoryview:
        needed, data = bytes_of(shape, itemsize), self._buffer()
        if needed != len(data):
            raise WireError(f"a shape of {shape} needs {needed} bytes, not {len(data)}")
        return data

    def _buffer(self) -> memoryview:
        if (buffer := next(self.buffers, None)) is None:
            raise WireError("a buffer is missing")
        return buffer


READERS: dict[Any, Callable[[Decoder, list[Any], int], Any]] = {
    name: getattr(Decoder, f"_{name}")
    for name in (
        "list", "tuple", "set", "frozenset", "dict", "float", "complex", "str", "bytes", "size", "dtype", "device",
        "handle", "tensor", "array", "scalar",
    )
}  # fmt: skip


def _different(keys: list[Any]) -> list[Any]:
    """Keys of a dict or set. WireError if one comes twice, or if many were chosen to have one hash."""
    if not all(map(_is_key, keys)):
        raise WireError("a key that cannot be one")
    # Such keys are compared each with each other, which takes the square of their number.
    if len(keys) - len(set(map(hash, keys))) > MAX_COLLISIONS:
        raise WireError(f"more than {MAX_COLLISIONS} keys have the hash of another")
    if len(set(keys)) != len(keys):
        raise WireError("a key comes twice")
    return keys


def _is_key(value: Any) -> bool:
    kind = type(value)
    return all(map(_is_key, value)) if kind is tuple else kind in _KEY_KINDS


def _elements(data: memoryview, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The buffer as a read-only array; WireError if a bool is neither 0 nor 1."""
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise WireError("a bool that is neither 0 nor 1")
    return np.frombuffer(data, dtype)
