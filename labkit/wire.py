"""Values as data: how the judge and the sandbox exchange arguments and results.

A frame is ``GLW1``, the header's and the payload's length, a JSON header ``[tree, lengths]``, and raw buffers that the
tree uses in its order, each once. A list in the tree starts with its tag; JSON objects do not occur. What can be
inside is a closed table. Nothing is ever unpickled, every length is bounded before it is read, and every size is
checked against the bytes that came. :mod:`labkit.encoder` and :mod:`labkit.decoder` are its two directions.

============== ==================================================================================================
JSON           None, bool, int of at most 4300 digits, finite float, short ASCII str
``float``      nan (with its sign and payload) and the infinities; ``complex``
``str bytes``  any other text without lone surrogates, which UTF-8 cannot say; 16 MiB of text in a frame
``list tuple`` also ``set``, ``frozenset``, ``dict`` in its order; 64 levels deep, 200 000 items in a frame
``tensor``     dtype, shape, values to the bit, requires_grad and the order of the axes in memory, so that a transposed
               argument arrives transposed; it arrives on the CPU, as a leaf, conj and neg views resolved, and
               :func:`device_of` tells the device it came from
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
import struct
from collections.abc import Callable, Iterator
from typing import Any

from labkit.decoder import Decoder
from labkit.encoder import Encoder
from labkit.plain import device_of
from labkit.table import MAX_HEADER, MAX_PAYLOAD, Handle, WireError

__all__ = [
    "MAX_HEADER",
    "MAX_PAYLOAD",
    "PREFIX",
    "Handle",
    "WireError",
    "device_of",
    "pack",
    "prefix_lengths",
    "unpack",
]

MAGIC = b"GLW1"
PREFIX = struct.Struct(">4sIQ")
_ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))


def pack(value: Any, keep: Callable[[Any], Handle] | None = None) -> bytes:
    """One frame holding ``value``. ``keep`` turns what is an object into a handle; without it, WireError."""
    encoder = Encoder(keep)
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
        decoder = Decoder(_cut(payload, lengths))
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
