"""Values as data: how the judge and the sandbox exchange arguments and results.

A frame is ``GLW1``, the header's and the payload's length, a JSON header ``[tree, lengths]``, and raw buffers that the
tree uses in its order, each once. A list in the tree starts with its tag; JSON objects do not occur. What can be
inside is a closed table. Nothing is ever unpickled, every length is bounded before it is read, and every size is
checked against the bytes that came.

============== ==================================================================================================
JSON           None, bool, int of at most 4300 digits, finite float, short ASCII str
``float``      nan (with its sign and payload) and the infinities; ``complex``
``str bytes``  any other text without lone surrogates, which UTF-8 cannot say; 16 MiB of text in a frame
``list tuple`` also ``set``, ``frozenset``, ``dict`` in its order; 64 levels deep, 200 000 items in a frame
``tensor``     dtype, shape, values to the bit, requires_grad and the order of the axes in memory, so that a transposed
               argument arrives transposed; it arrives on the CPU, as a leaf, conj and neg views resolved
``array``      dtype, shape, values to the bit, writable or not; it arrives C-contiguous in native byte order
``scalar``     a NumPy scalar of an array's dtype
``words``      ``size``, ``dtype``, ``device`` of torch
``handle``     :class:`Handle`, a name for an object that stays in the sandbox
============== ==================================================================================================

Subclasses arrive as what they are made of. int, float, complex, str, bytes, list, tuple (named ones too), dict and set
are read with the base class's own methods; a torch.Tensor subclass, nn.Parameter among them, with its
``__torch_function__`` switched off; an ndarray subclass as an ndarray. Whoever unpacks never meets the class.

Refused with the remedy is what was meant as a value but has none to read, or none in the table: tensors that are meta,
sparse, quantised, nested, of another dtype, without their memory, still inside torch.func, or of a class with a
``__torch_dispatch__`` (fake, masked and jagged ones); masked arrays, and arrays of objects, texts, dates or records.

Everything else is an object, and ``keep`` makes a handle of it: instances of other classes, functions, generators,
coroutines, ranges, dict views, lazy parameters (they have not even a shape). So is a key, in a dict or set, that would
no longer be one as data or that compares in a way of its own.
"""

from __future__ import annotations

import json
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["MAX_HEADER", "MAX_PAYLOAD", "PREFIX", "Handle", "WireError", "pack", "prefix_lengths", "unpack"]

MAGIC = b"GLW1"
PREFIX = struct.Struct(">4sIQ")
# Python's objects take up to 33 times the bytes of the JSON they are made from: the worst header costs 1 s and 60 MiB.
MAX_HEADER = 2 << 20
MAX_PAYLOAD = 256 << 20
# One character outside the basic plane makes all others of its string four bytes long.
MAX_TEXT = 16 << 20
MAX_ITEMS = 200_000
MAX_DEPTH = 64
MAX_DIGITS = 4300  # as many as Python reads, unless told otherwise
MAX_RANK = 32
MAX_COLLISIONS = 16
MAX_TYPE = 200
MAX_REPR = 500

_SHORT = 1000
_TOO_LONG = 10**MAX_DIGITS
_TENSOR_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
    )
}  # fmt: skip
# NumPy's dtype of the same size, and but for one of the same name.
_BITS = {dtype: np.dtype("i2" if dtype is torch.bfloat16 else name) for name, dtype in _TENSOR_DTYPES.items()}
_TENSOR_NAMES = {dtype: name for name, dtype in _TENSOR_DTYPES.items()}
_ARRAY_DTYPES = {
    f"{order}{code}": np.dtype(f"{order}{code}")
    for order, code in [("|", "b1"), ("|", "u1"), ("|", "i1")]
    + [("<", code) for code in ("u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16")]
}
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_DEVICE = re.compile(r"[a-z]{1,20}(:[0-9]{1,5})?")
_FLOAT = struct.Struct(">d")
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))

Buffer = bytes | memoryview


class WireError(ValueError):
    """A frame or value that is not in the table, too large, or does not add up."""


@dataclass(frozen=True)
class Handle:
    """An object that stays in the sandbox: its number there, its type's name and the start of its repr."""

    id: int
    type: str
    repr: str


def pack(value: Any, keep: Callable[[Any], Handle] | None = None) -> bytes:
    """One frame holding ``value``. ``keep`` turns what is an object into a handle; without it, WireError."""
    encoder = _Encoder(keep)
    tree = encoder.encode(value, 0)
    header = _ENCODER.encode([tree, encoder.lengths]).encode()
    if len(header) > MAX_HEADER:
        raise WireError(
            f"the value has too many parts to hand over: {len(header) / 2**20:.1f} MiB of them, at most "
            f"{MAX_HEADER >> 20} MiB; long lists of numbers belong into a tensor or an array"
        )
    return b"".join([PREFIX.pack(MAGIC, len(header), encoder.size), header, *encoder.buffers])


def prefix_lengths(prefix: bytes | bytearray) -> tuple[int, int]:
    """Header and payload length of the frame that starts with ``prefix``; WireError before anything large is read."""
    magic, header, payload = PREFIX.unpack(prefix)
    if magic != MAGIC or header > MAX_HEADER or payload > MAX_PAYLOAD:
        raise WireError("the bytes are no frame")
    return header, payload


def unpack(header: bytes | bytearray | memoryview, payload: bytes | bytearray | memoryview) -> Any:
    """The value in a frame. WireError for anything that does not add up; never runs or imports what it reads."""
    if len(header) > MAX_HEADER or len(payload) > MAX_PAYLOAD:
        raise WireError("the bytes are no frame")
    try:
        tree, lengths = _DECODER.decode(str(header, "ascii"))
        _check_lengths(lengths, len(payload))
        decoder = _Decoder(_cut(payload, lengths))
        value = decoder.decode(tree, 0)
    except WireError:
        raise
    # A RuntimeError is none of these: torch has no memory left, which is not the sender's fault.
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
        raise WireError(f"malformed frame: {type(error).__name__}") from None
    if next(decoder.buffers, None) is not None:
        raise WireError("a buffer belongs to no value")
    return value


def _check_lengths(lengths: Any, size: int) -> None:
    if not all(type(n) is int and n >= 0 for n in lengths) or sum(lengths) != size:
        raise WireError("the buffers' lengths do not add up")


def _cut(payload: bytes | bytearray | memoryview, lengths: list[int]) -> Iterator[memoryview]:
    """The buffers one after another."""
    view, start = memoryview(payload), 0
    for length in lengths:
        yield view[start : start + length]
        start += length


def _refuse_constant(name: str) -> Any:
    raise WireError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


class _Encoder:
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
            return value if value - value == 0 else ["float", _FLOAT.pack(value).hex()]
        if kind is str:
            return value if len(value) <= _SHORT and value.isascii() else self._str(value)
        writer = _WRITERS.get(kind)
        return self._other(value, kind, depth) if writer is None else writer(self, value, depth)

    def _other(self, value: Any, kind: type, depth: int) -> Any:
        """Subclasses as what they are made of, then objects."""
        if issubclass(kind, torch.Tensor) and not torch.nn.parameter.is_lazy(value):
            return self._tensor(_plain_tensor(value, kind))
        if issubclass(kind, np.ndarray):
            return self._array(_plain_array(value, kind))
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
        base = next((base for base in _KEYS if issubclass(kind, base)), None)
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
        _check_tensor(value)
        name, shape = _TENSOR_NAMES[value.dtype], list(value.shape)
        self._fits(_bytes_of(shape, value.dtype.itemsize))
        grad, axes = value.requires_grad, None
        plain = value.detach().cpu().resolve_conj().resolve_neg()
        if not plain.is_contiguous():
            strides = plain.stride()
            axes = sorted(range(len(shape)), key=lambda axis: -strides[axis])
            plain = plain.permute(axes).contiguous()
        # Not numpy(), which takes from the tensor the right to be resized.
        self._add_array(np.from_dlpack(plain.view(torch.int16) if plain.dtype is torch.bfloat16 else plain))
        return ["tensor", name, shape, axes, grad]

    def _array(self, value: np.ndarray[Any, Any], depth: int = 0) -> Any:
        dtype, shape = value.dtype.newbyteorder("<"), list(value.shape)
        if dtype.str not in _ARRAY_DTYPES:
            raise WireError(
                f"a NumPy array of dtype {value.dtype} cannot be handed over; return an array of numbers or bools"
            )
        self._fits(_bytes_of(shape, dtype.itemsize))
        self._add_array(np.ascontiguousarray(value, dtype=dtype))
        return ["array", dtype.str, shape, not value.flags.writeable]

    def _scalar(self, value: np.generic) -> Any:
        if value.dtype.str not in _ARRAY_DTYPES:
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


_LEAVES = frozenset((type(None), bool, int, float))
_WRITERS: dict[type, Callable[[_Encoder, Any, int], Any]] = {
    bytes: _Encoder._bytes,
    complex: _Encoder._complex,
    list: _Encoder._list,
    tuple: _Encoder._tuple,
    set: _Encoder._set,
    frozenset: _Encoder._frozenset,
    dict: _Encoder._dict,
    torch.Size: _Encoder._size,
    torch.dtype: _Encoder._dtype,
    torch.device: _Encoder._device,
    torch.Tensor: _Encoder._tensor,
    np.ndarray: _Encoder._array,
    Handle: _Encoder._handle,
}
_EXACT: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    bytes: bytes.__bytes__,
}
_CONTAINERS = (list, tuple, dict, set, frozenset)
_KEYS = (
    *(dtype.type for dtype in _ARRAY_DTYPES.values()), np.str_, np.bytes_,
    str, bool, int, float, complex, bytes, torch.Size, tuple, frozenset, type(None), torch.dtype, torch.device, Handle,
)  # fmt: skip
_KEY_KINDS = frozenset(_KEYS)


class _Decoder:
    """Turns a tree into its value; ``buffers`` are used up on the way."""

    def __init__(self, buffers: Iterator[memoryview]) -> None:
        self.buffers = buffers
        self._items = 0
        self._text = 0

    def decode(self, tree: Any, depth: int) -> Any:
        if type(tree) is list:
            if depth > MAX_DEPTH:
                raise WireError(f"the value is nested more than {MAX_DEPTH} levels deep")
            reader = _READERS.get(tree[0])
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
        if len(bits) != 2 * _FLOAT.size:
            raise WireError("malformed float")
        value: float = _FLOAT.unpack(bytes.fromhex(bits))[0]
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
        return Handle(id=number, type=_legible(kind[:MAX_TYPE]), repr=_legible(shown[:MAX_REPR]))

    def _tensor(self, tree: list[Any], depth: int) -> torch.Tensor:
        _, name, shape, axes, grad = tree
        dtype = _TENSOR_DTYPES[name]
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
        return tensor.requires_grad_() if grad else tensor

    def _array(self, tree: list[Any], depth: int) -> np.ndarray[Any, Any]:
        _, name, shape, locked = tree
        dtype = _ARRAY_DTYPES[name]
        if type(locked) is not bool:
            raise WireError("malformed array")
        array = _elements(self._data(shape, dtype.itemsize), dtype).reshape(shape).copy()
        array.flags.writeable = not locked
        return array

    def _scalar(self, tree: list[Any], depth: int) -> Any:
        _, name = tree
        dtype = _ARRAY_DTYPES[name]
        return _elements(self._data([], dtype.itemsize), dtype)[0]

    def _data(self, shape: Any, itemsize: int) -> memoryview:
        needed, data = _bytes_of(shape, itemsize), self._buffer()
        if needed != len(data):
            raise WireError(f"a shape of {shape} needs {needed} bytes, not {len(data)}")
        return data

    def _buffer(self) -> memoryview:
        if (buffer := next(self.buffers, None)) is None:
            raise WireError("a buffer is missing")
        return buffer


_READERS: dict[Any, Callable[[_Decoder, list[Any], int], Any]] = {
    name: getattr(_Decoder, f"_{name}")
    for name in (
        "list", "tuple", "set", "frozenset", "dict", "float", "complex", "str", "bytes", "size", "dtype", "device",
        "handle", "tensor", "array", "scalar",
    )
}  # fmt: skip


def _different(keys: list[Any]) -> list[Any]:
    """Keys of a dict or set. WireError if one comes twice, or if many were chosen to have one hash."""
    if not all(map(_is_key, keys)):
        raise WireError("a key that cannot be one")
    # Such keys are compared each with each other: 11 s for the numbers that fit into 1 MiB.
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


def _bytes_of(shape: Any, itemsize: int) -> int:
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


def _legible(text: str) -> str:
    """Shown to people and stored as it is: without lone surrogates, which UTF-8 cannot say."""
    return text.encode("utf-8", "replace").decode()


def _plain_tensor(value: torch.Tensor, kind: type[torch.Tensor]) -> torch.Tensor:
    """A subclass's tensor, sharing its memory: what the class says about itself is not asked."""
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        # It may have no memory of its own at all: reading it would end the process.
        raise WireError(
            f"a {kind.__name__}, a tensor with operations of its own, cannot be handed over; return a torch.Tensor"
        )
    with torch._C.DisableTorchFunctionSubclass():
        plain = torch.Tensor.as_subclass(torch.Tensor.detach(value), torch.Tensor)
        return plain.requires_grad_() if value.requires_grad else plain


def _plain_array(value: np.ndarray[Any, Any], kind: type) -> np.ndarray[Any, Any]:
    if issubclass(kind, np.ma.MaskedArray):
        raise WireError("a masked array cannot be handed over; return x.filled(value), where you choose the value")
    return np.ndarray.view(value, np.ndarray)


def _check_tensor(value: torch.Tensor) -> None:
    """WireError with a remedy if there is nothing to read, or nothing in the table."""
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        what, remedy = (
            "tensor still inside torch.func (vmap, grad and others)",
            "let the transformed function return it",
        )
    elif value.is_nested:
        what, remedy = "nested tensor", "return the list of its parts, x.unbind()"
    elif value.layout is not torch.strided:
        what, remedy = f"tensor of layout {value.layout}", "return x.to_dense()"
    elif value.is_quantized:
        what, remedy = f"quantised tensor ({value.dtype})", "return x.dequantize()"
    elif value.device.type == "meta":
        what, remedy = "tensor on the meta device, which has a shape but no values,", "return one that was computed"
    elif value.dtype not in _TENSOR_NAMES:
        what, remedy = f"tensor of dtype {value.dtype}", "convert it, for example with x.to(torch.float32)"
    elif not _has_memory(value):
        what, remedy = "tensor whose storage is smaller than its shape needs", "return x.clone() before you resize it"
    else:
        return
    raise WireError(f"a {what} cannot be handed over; {remedy}")


def _has_memory(value: torch.Tensor) -> bool:
    """Whether the storage reaches to the last element; it may have been resized."""
    if not value.numel():
        return True
    last = value.storage_offset() + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
    return (last + 1) * value.itemsize <= value.untyped_storage().nbytes()
