"""From a value to the tree and the buffers of a frame (:mod:`labkit.wire` says what they look like).

It runs in the sandbox beside learner code as well, so it reads containers with the base class's own methods alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from labkit.plain import check_tensor, plain_array, plain_tensor
from labkit.table import (
    ARRAY_DTYPES,
    FLOAT,
    KEYS,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_PAYLOAD,
    MAX_REPR,
    MAX_TEXT,
    MAX_TYPE,
    TENSOR_NAMES,
    Handle,
    WireError,
    bytes_of,
)

__all__ = ["Encoder"]

MAX_DIGITS = 4300  # as many as Python reads, unless told otherwise

_SHORT = 1000
_TOO_LONG = 10**MAX_DIGITS

Buffer = bytes | memoryview


class Encoder:
    """Turns a value into a tree; ``buffers``, their ``lengths`` and their ``size`` together grow on the way."""

    def __init__(self, keep: Callable[[Any], Handle] | None) -> None:
        self.buffers: list[Buffer] = []
        self.lengths: list[int] = []
        self.size = 0
        self._keep = keep
        self._items = 0
        self._text = 0

    def encode(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            if -_TOO_LONG < value < _TOO_LONG:
                return value
            raise WireError(f"the integer has more than {MAX_DIGITS} digits")
        if kind is float:
            return value if value - value == 0 else ["float", FLOAT.pack(value).hex()]
        if kind is str:
            return value if len(value) <= _SHORT and value.isascii() else self._str(value)
        writer = _WRITERS.get(kind)
        return self._other(value, kind, depth) if writer is None else writer(self, value, depth)

    def _other(self, value: Any, kind: type, depth: int) -> Any:
        """Subclasses as what they are made of, then objects."""
        if issubclass(kind, torch.Tensor) and not torch.nn.parameter.is_lazy(value):
            return self._tensor(plain_tensor(value, kind))
        if issubclass(kind, np.ndarray):
            return self._array(plain_array(value, kind))
        if issubclass(kind, np.generic) and not issubclass(kind, str | bytes):
            return self._scalar(value)
        for base, exact in _EXACT.items():
            if issubclass(kind, base):
                return self.encode(exact(value), depth)
        for base in _CONTAINERS:
            if issubclass(kind, base):
                return _WRITERS[base](self, value, depth)
        return self._object(value)

    def _object(self, value: Any) -> Any:
        if self._keep is None:
            raise WireError(f"a {type(value).__name__} cannot be handed over as data")
        return self._handle(self._keep(value))

    def _str(self, value: str) -> Any:
        try:
            data = value.encode()
        except UnicodeEncodeError:
            # The files, store and pages of the judge are UTF-8: such a text would break them later, as its own fault.
            raise WireError(
                "a text with a lone surrogate, which is no character, cannot be handed over; "
                'return bytes, or decode them with errors="replace"'
            ) from None
        self._text += len(data)
        if self._text > MAX_TEXT:
            raise WireError(f"the text is too long to hand over: more than {MAX_TEXT >> 20} MiB")
        self._add(data, len(data))
        return ["str"]

    def _bytes(self, value: bytes, depth: int) -> Any:
        self._add(value, len(value))
        return ["bytes"]

    def _complex(self, value: complex, depth: int) -> Any:
        return ["complex", self.encode(value.real, depth), self.encode(value.imag, depth)]

    def _list(self, value: list[Any], depth: int) -> Any:
        self._enter(len(value), depth)
        return ["list", *[self.encode(item, depth + 1) for item in list.__iter__(value)]]

    def _tuple(self, value: tuple[Any, ...], depth: int) -> Any:
        self._enter(len(value), depth)
        return ["tuple", *[self.encode(item, depth + 1) for item in tuple.__iter__(value)]]

    def _set(self, value: set[Any], depth: int) -> Any:
        self._enter(len(value), depth)
        return ["set", *[self._key(item, depth + 1) for item in set.__iter__(value)]]

    def _frozenset(self, value: frozenset[Any], depth: int) -> Any:
        self._enter(len(value), depth)
        return ["frozenset", *[self._key(item, depth + 1) for item in frozenset.__iter__(value)]]

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        self._enter(2 * len(value), depth)
        tree: list[Any] = ["dict"]
        # An ordered dict has an order of its own.
        for key, item in OrderedDict.items(value) if isinstance(value, OrderedDict) else dict.items(value):
            tree.append(self._key(key, depth + 1))
            tree.append(self.encode(item, depth + 1))
        return tree

    def _key(self, value: Any, depth: int) -> Any:
        """A key or a set's item: what is equal to no other key here must be equal to no other there."""
        kind = type(value)
        if kind is str or kind is int:
            return self.encode(value, depth)
        base = next((base for base in KEYS if issubclass(kind, base)), None)
        if base is None or kind.__eq__ is not base.__eq__ or kind.__hash__ is not base.__hash__:
            return self._object(value)
        if base is tuple:
            self._enter(len(value), depth)
            return ["tuple", *[self._key(item, depth + 1) for item in tuple.__iter__(value)]]
        return self.encode(value, depth)

    def _size(self, value: torch.Size, depth: int) -> Any:
        return ["size", *[int(n) for n in value]]

    def _dtype(self, value: torch.dtype, depth: int) -> Any:
        return ["dtype", str(value).removeprefix("torch.")]

    def _device(self, value: torch.device, depth: int) -> Any:
        return ["device", str(value)]

    def _handle(self, value: Handle, depth: int = 0) -> Any:
        return ["handle", value.id, value.type[:MAX_TYPE], value.repr[:MAX_REPR]]

    def _tensor(self, value: torch.Tensor, depth: int = 0) -> Any:
        check_tensor(value)
        name, shape = TENSOR_NAMES[value.dtype], list(value.shape)
        self._fits(bytes_of(shape, value.dtype.itemsize))
        grad, axes = value.requires_grad, None
        plain = value.detach().cpu().resolve_conj().resolve_neg()
        if not plain.is_contiguous():
            strides = plain.stride()
            axes = sorted(range(len(shape)), key=lambda axis: -strides[axis])
            plain = plain.permute(axes).contiguous()
        # Not numpy(), which takes from the tensor the right to be resized.
        self._add_array(np.from_dlpack(plain.view(torch.int16) if plain.dtype is torch.bfloat16 else plain))
        tree = ["tensor", name, shape, axes, grad]
        return tree if value.is_cpu else [*tree, str(value.device)]

    def _array(self, value: np.ndarray[Any, Any], depth: int = 0) -> Any:
        dtype, shape = value.dtype.newbyteorder("<"), list(value.shape)
        if dtype.str not in ARRAY_DTYPES:
            raise WireError(
                f"a NumPy array of dtype {value.dtype} cannot be handed over; return an array of numbers or bools"
            )
        self._fits(bytes_of(shape, dtype.itemsize))
        self._add_array(np.ascontiguousarray(value, dtype=dtype))
        return ["array", dtype.str, shape, not value.flags.writeable]

    def _scalar(self, value: np.generic) -> Any:
        if value.dtype.str not in ARRAY_DTYPES:
            raise WireError(
                f"a NumPy scalar of dtype {value.dtype} cannot be handed over; return a Python number or text instead"
            )
        self._add_array(np.asarray(value))
        return ["scalar", value.dtype.str]

    def _enter(self, count: int, depth: int) -> None:
        self._items += count
        if depth > MAX_DEPTH:
            raise WireError(f"the value is nested more than {MAX_DEPTH} levels deep")
        if self._items > MAX_ITEMS:
            raise WireError(
                f"the value has more than {MAX_ITEMS} items in its lists and dicts; "
                "long lists of numbers belong into a tensor or an array"
            )

    def _add_array(self, array: np.ndarray[Any, Any]) -> None:
        if array.dtype.kind == "b":
            # A view of other bytes than 0 and 1 as bool is true in one operation and equal to nothing in the next.
            array = np.not_equal(array.view(np.uint8), 0)
        self._add(array.tobytes() if array.nbytes <= _SHORT or not array.ndim else array.data, array.nbytes)

    def _add(self, data: Buffer, length: int) -> None:
        self._fits(length)
        self.buffers.append(data)
        self.lengths.append(length)
        self.size += length

    def _fits(self, length: int) -> None:
        if (size := self.size + length) > MAX_PAYLOAD:
            raise WireError(
                f"the value is too large to hand over: {size / 2**20:.0f} MiB, at most {MAX_PAYLOAD >> 20} MiB"
            )


_WRITERS: dict[type, Callable[[Encoder, Any, int], Any]] = {
    bytes: Encoder._bytes,
    complex: Encoder._complex,
    list: Encoder._list,
    tuple: Encoder._tuple,
    set: Encoder._set,
    frozenset: Encoder._frozenset,
    dict: Encoder._dict,
    torch.Size: Encoder._size,
    torch.dtype: Encoder._dtype,
    torch.device: Encoder._device,
    torch.Tensor: Encoder._tensor,
    np.ndarray: Encoder._array,
    Handle: Encoder._handle,
}
_EXACT: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    bytes: bytes.__bytes__,
}
_CONTAINERS = (list, tuple, dict, set, frozenset)
